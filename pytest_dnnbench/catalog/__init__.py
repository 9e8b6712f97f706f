"""What can be named in a case: frameworks and models, each a row."""

from pytest_dnnbench.catalog.framework_spec import FrameworkOption, FrameworkSpec
from pytest_dnnbench.catalog.lookup import Catalog

__all__ = ["Catalog", "FrameworkOption", "FrameworkSpec"]
