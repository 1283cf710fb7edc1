"""Names of bases and of adapters: two of one base, a folder and a revision on the hub, a folder at home."""

from typing import Any

import pytest

from lora_reuse.llm.adapters.bases import same_base
from lora_reuse.llm.adapters.folders import load_expert
from tests.llm.test_adapter_kinds import written
from tests.llm.test_adapters import qwen

ALIASES = [
    ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B", True),
    ("unsloth/Qwen2.5-3B-Instruct-unsloth-bnb-4bit", "Qwen/Qwen2.5-3B-Instruct", True),
    ("Qwen/Qwen2.5-3B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-3B-Instruct", True),
    ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "meta-llama/Llama-3.1-8B-Instruct", True),
    ("some/folder/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-3B-Instruct", True),
    ("SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct", True),
    ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", True),
    ("/cache/hub/models--Qwen--Qwen2.5-3B/snapshots/0123abc", "Qwen/Qwen2.5-3B", True),
    ("/cache/hub/models--Qwen--Qwen2.5-3B/snapshots/0123abc", "Qwen/Qwen2.5-7B", False),
    ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct", False),
    ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B", False),
    ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3-8B", False),
]


@pytest.mark.parametrize(("one", "other", "same"), ALIASES)
def test_names_of_one_base(one, other, same):
    assert same_base(one, other) == same_base(other, one) == same


@pytest.mark.parametrize(
    ("name", "repository", "revision", "inside"),
    [
        ("some/adapter", "some/adapter", None, ""),
        ("some/adapter@v2", "some/adapter", "v2", ""),
        ("some/adapter/epoch-3", "some/adapter", None, "epoch-3"),
        ("some/adapter/runs/epoch-3@0123abc", "some/adapter", "0123abc", "runs/epoch-3"),
    ],
)
def test_a_hub_name_may_have_a_folder_and_a_revision(name, repository, revision, inside, tmp_path, monkeypatch):
    written("lora", tmp_path / inside if inside else tmp_path)
    asked = []

    def fetched(*given: Any, **options: Any) -> str:
        asked.append((*given, options["revision"], options["allow_patterns"][0]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert load_expert(name, qwen())
    assert asked == [(repository, revision, f"{inside}/adapter_config.json" if inside else "adapter_config.json")]


def test_a_home_folder_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written("lora", tmp_path / "a")
    assert load_expert("~/a", qwen())
