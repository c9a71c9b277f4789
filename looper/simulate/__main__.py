"""`python -m looper.simulate`."""

from looper.simulate.server import main

if __name__ == "__main__":
    main()
