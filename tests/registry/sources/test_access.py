from __future__ import annotations

import pytest

from loradex.errors import PathNotAllowed
from loradex.registry.sources.access import EVERYWHERE, Access

FILES = "https://files.acme.org/lora"


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (FILES, "https://files.acme.org/lora/medical.zip"),
        (FILES, "https://files.acme.org:443/lora/medical.zip?token=1"),
        (FILES + "/", "https://FILES.acme.org/lora"),
        ("https://files.acme.org", "https://files.acme.org/any/thing"),
        ("s3://models", "s3://models/a/b"),
        ("hf://acme", "hf://acme/medical@main"),
        ("hf://acme/medical", "hf://acme/medical@v1/inner"),
        ("hf://acme/medical@v1", "hf://acme/medical@v1/inner"),
    ],
)
def test_what_lies_below_an_allowed_address_passes(allowed: str, url: str) -> None:
    Access((), (allowed,)).permit(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (FILES, "https://files.acme.org/lora-private/medical.zip"),
        (FILES, "https://files.acme.org/lora/../private"),
        (FILES, "https://files.acme.org/lora/%2e%2e/private"),
        (FILES, "https://files.acme.org/lora/%252e%252e/private"),
        (FILES, "https://files.acme.org/lora/..%5cprivate"),
        (FILES, "http://files.acme.org/lora/medical.zip"),
        (FILES, "https://files.acme.org:8443/lora/medical.zip"),
        (FILES, "https://files.acme.org.evil.net/lora/x"),
        (FILES, "https://files.acme.org@evil.net/lora/x"),
        (FILES, "https://user:key@files.acme.org/lora/x"),
        (FILES, "https://evil.net/files.acme.org/lora/x"),
        (FILES, "https://evil.net\\@files.acme.org/lora/x"),
        (FILES, "https://[files.acme.org/lora"),
        (FILES, "https://files.acme.org:x/lora"),
        ("s3://models", "s3://models-private/a"),
        ("s3://models", "gs://models/a"),
        ("hf://acme", "hf://acme-evil/medical"),
        ("hf://acme/medical@v1", "hf://acme/medical@v2"),
        ("hf://acme/medical@v1", "hf://acme/medical"),
        ("hf://acme/medical", "hf://acme/medical-private"),
        ("not an address", "not an address"),
    ],
)
def test_all_else_is_refused(allowed: str, url: str) -> None:
    with pytest.raises(PathNotAllowed) as error:
        Access((), (allowed,)).permit(url)
    assert "--allow-url" in error.value.hint
    assert "key" not in error.value.message


def test_nothing_is_allowed_by_default_and_all_to_the_operator() -> None:
    with pytest.raises(PathNotAllowed):
        Access((), ()).permit("https://files.acme.org")
    EVERYWHERE.permit("http://169.254.169.254/latest")
