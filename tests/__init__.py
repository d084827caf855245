"""Claims about the library, each a test's name."""

import pytest

pytest.register_assert_rewrite("tests.support.launcher_contract")  # its asserts are to show what they compared
