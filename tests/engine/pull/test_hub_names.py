"""The names and addresses by which people ask for a model of the hub."""

from __future__ import annotations

import pytest

from glmtui.engine.pull import pull
from glmtui.engine.pull.sources import parse_repository_name
from glmtui.errors import ModelNotFound
from support.fake_hub import Hub
from support.hub_repository import REPO


@pytest.mark.parametrize(
    "ref",
    [
        f"https://huggingface.co/{REPO}",
        f"https://huggingface.co/{REPO}/tree/main",
        f" hf.co/{REPO}/\n",
        f"http://hf-mirror.com/{REPO}/blob/main/config.json?download=true#x",
        f"{REPO}/",
    ],
)
def test_the_address_of_a_page_names_its_model(hub: Hub, ref: str) -> None:
    assert pull(ref, endpoint=hub.url).name == REPO


@pytest.mark.parametrize(
    "ref",
    [
        "https://evil.example/org/name",
        "https://huggingface.co.evil.example/org/name",
        "https://user:secret@huggingface.co/org/name",
        "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/org",
        "https://huggingface.co/org/name/../../x",
        "org/name:Q4_K_M",
    ],
)
def test_other_addresses_name_none(hub: Hub, ref: str) -> None:
    with pytest.raises(ModelNotFound):
        pull(ref, endpoint=hub.url)
    assert hub.requests == []


def test_what_is_no_address_stays_as_it_is() -> None:
    assert parse_repository_name("org/name") == "org/name"
