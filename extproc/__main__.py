"""`python -m extproc`, which is `looper`."""

from extproc.cli.main import main

if __name__ == "__main__":
    main(prog_name="looper")
