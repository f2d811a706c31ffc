"""What pyproject.toml makes of warnings."""

import warnings

import pytest


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, ResourceWarning])
def test_warning_of_our_code_is_an_error_and_one_of_another_package_is_silent(category: type[Warning]) -> None:
    with pytest.raises(category):
        warnings.warn_explicit("ours", category, "file.py", 1, module="qpa.core.circuits.ansatz")
    with warnings.catch_warnings(record=True) as said:
        warnings.warn_explicit("theirs", category, "file.py", 1, module="torch.nn")
    assert not said
