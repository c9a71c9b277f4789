from typing import Any

import pytest

from looper.contract import CodeConfig
from looper.contract.code import Code
from looper.contract.fences import unfenced

CODE = "def f(x):\n    return x"
SHELL = "python main.py"
IMPORT = f"import os\n\n# The function:\n{CODE}"
C = "#include <stdio.h>\nint main() { }"
TAXES = "import taxes are high.\nThey always were very high.\nThat is so."
PYTHON = {"language": "python"}


def code(**settings: Any) -> Code:
    return CodeConfig.model_validate({"type": "code", **settings}).build()


@pytest.mark.parametrize(
    ("settings", "text", "value"),
    [
        pytest.param(PYTHON, f"```python\n{CODE}\n```", CODE, id="fence"),
        pytest.param(PYTHON, f"Here:\n```py\n{CODE}\n```\nBye.", CODE, id="alias"),
        pytest.param({"language": "py"}, f"```Python3\n{CODE}\n```", CODE, id="alias-configured"),
        pytest.param(PYTHON, f"```{{.python}}\n{CODE}\n```", CODE, id="attributes"),
        pytest.param({"language": "cpp"}, "```c++\nint x;\n```", "int x;", id="signs-in-the-name"),
        pytest.param(PYTHON, f"~~~python title=x\n{CODE}\n~~~", CODE, id="tildes"),
        pytest.param(PYTHON, f"````python\n{CODE}\n```\nx\n````", f"{CODE}\n```\nx", id="longer-fence"),
        pytest.param(PYTHON, f"```python\n{CODE}", CODE, id="unclosed"),
        pytest.param(PYTHON, f"```python\n\n{CODE}  \r\n\n```", CODE, id="blanks"),
        pytest.param(PYTHON, f"```python\nx\n```\n```python\n{CODE}\n```", CODE, id="last-block"),
        pytest.param(PYTHON, f"```py\n{CODE}\n```\nRun:\n```bash\n{SHELL}\n```", CODE, id="language-first"),
        pytest.param(PYTHON, f"```\n{CODE}\n```\nRun:\n```bash\n{SHELL}\n```", CODE, id="no-name-next"),
        pytest.param(PYTHON, f"```bash\n{SHELL}\n```", None, id="other-language"),
        pytest.param({}, f"```py\n{CODE}\n```\n```bash\n{SHELL}\n```", SHELL, id="last-of-any-language"),
        pytest.param(PYTHON, CODE, CODE, id="no-fence"),
        pytest.param(PYTHON, IMPORT, IMPORT, id="no-fence-with-comment"),
        pytest.param({}, C, C, id="no-fence-c"),
        pytest.param({}, "Use the function that sorts a list.", None, id="prose"),
        pytest.param({}, TAXES, None, id="prose-that-begins-like-code"),
        pytest.param({}, "```\n \n```", None, id="empty-block"),
        pytest.param({}, "I cannot write that.", None, id="refusal"),
        pytest.param({}, f"<think>```\nx\n```</think>```\n{CODE}\n```", CODE, id="thought"),
        pytest.param({}, f"1. Do:\n   ```\n   {SHELL}\n   ```", f"   {SHELL}", id="indented-fence"),
    ],
)  # fmt: skip
def test_code_is_found(settings: dict[str, Any], text: str, value: str | None) -> None:
    """The last block of the language counts, under any of its names; without blocks, a text that is code."""
    assert code(**settings).extract(text) == value


@pytest.mark.parametrize(
    ("settings", "text", "repaired"),
    [
        pytest.param(PYTHON, f"Look:\n```py\n{CODE}\n```", f"Look:\n```py\n{CODE}\n```", id="right"),
        pytest.param(PYTHON, CODE, f"```python\n{CODE}\n```", id="fence-is-added"),
        pytest.param(PYTHON, f"```py\n{CODE}", f"```python\n{CODE}\n```", id="fence-is-closed"),
        pytest.param({}, f"```\nx\n```\n```\n{CODE}\n```", f"```\n{CODE}\n```", id="one-block-of-several"),
        pytest.param({"one_block": False}, "```\nx\n```\n```\ny\n```", "```\nx\n```\n```\ny\n```", id="several"),
        pytest.param({}, "No.", None, id="no-code"),
    ],
)  # fmt: skip
def test_blocks_are_repaired(settings: dict[str, Any], text: str, repaired: str | None) -> None:
    """Code is put into one closed block."""
    assert code(**settings).repair(text) == repaired


def test_a_fence_is_longer_than_those_inside() -> None:
    """Code that has a fence in it is rendered in a longer one."""
    value = 'x = """\n```\n"""'
    assert code().render(value) == f"````\n{value}\n````"
    assert code().extract(code().render(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("No.", 'code in a fenced block: "No."', id="no-code"),
        pytest.param("```\nx\n```\n```\ny\n```", "one fenced block, not 2", id="two-blocks"),
        pytest.param("```\nx", "must be closed", id="unclosed"),
    ],
)
def test_a_violation_says_why(text: str, message: str) -> None:
    """A violation says what is wrong with the blocks."""
    violation = code().check(text)
    assert violation is not None
    assert message in violation.message


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        pytest.param("```x\na\n```", "a", id="one-block"),
        pytest.param("```\na\n```\nb", None, id="text-behind"),
        pytest.param("a\n```\nb\n```", None, id="text-before"),
        pytest.param("```\na\n```\n```\nb\n```", None, id="two-blocks"),
        pytest.param("```a```", None, id="code-in-a-line"),
    ],
)
def test_a_text_that_is_one_block(text: str, inside: str | None) -> None:
    """Only a fence around the whole text is a wrapping."""
    assert unfenced(text) == inside
