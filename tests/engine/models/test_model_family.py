"""Importing the module of a model family."""

from __future__ import annotations

import pytest

from glmtui.engine.catalog.families import COMPATIBILITY, FAMILIES
from glmtui.engine.models.model_family import import_family
from glmtui.errors import UnsupportedModel, UsageError


def test_every_family_of_our_own_can_be_imported() -> None:
    for row in FAMILIES:
        if row.key != COMPATIBILITY:
            assert callable(import_family(row.key).load_config)


def test_models_that_transformers_runs_have_no_family_module() -> None:
    with pytest.raises(UnsupportedModel, match="transformers"):
        import_family(COMPATIBILITY)


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="gpt") as caught:
        import_family("gpt")
    assert "chatglm3" in caught.value.hint
