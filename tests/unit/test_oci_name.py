import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.errors import InvalidDigestError, InvalidNameError, UsageError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference, case_conflict

WORD = "abcXYZ019_"
first = st.sampled_from(WORD)


def part(extra: str, longest: int) -> st.SearchStrategy[str]:
    return st.builds(str.__add__, first, st.text(alphabet=WORD + extra, max_size=longest - 1))


names = st.builds(ModelName, part(".-:", 350), part("-", 80), part(".-", 80), part(".-", 80))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mistral", ("registry.ollama.ai", "library", "mistral", "latest")),
        ("mistral:7b", ("registry.ollama.ai", "library", "mistral", "7b")),
        ("nomic-embed-text:v1.5", ("registry.ollama.ai", "library", "nomic-embed-text", "v1.5")),
        ("me/mine", ("registry.ollama.ai", "me", "mine", "latest")),
        ("hf.co/user/repo-GGUF:Q4_K_M", ("hf.co", "user", "repo-GGUF", "Q4_K_M")),
        ("localhost:5000/library/m", ("localhost:5000", "library", "m", "latest")),
        ("127.0.0.1:5000/library/m:t", ("127.0.0.1:5000", "library", "m", "t")),
    ],
)
def test_names_get_ollamas_defaults(text: str, parts: tuple[str, ...]) -> None:
    assert ModelName.parse(text).parts == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":7b",
        "/a",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../b",
        "h/../m",
        ".hidden",
        "-dash",
        "a\0b",
        "a\nb",
        "mistral\n",
        "a\x1b[31m",
        "a b",
        "ä",
        "a" * 81,
        "m:" + "t" * 81,
        "n.s/model",
        "a/b/c/d",
        "http://a/b/c",
        "a:b:c",
        "%2e%2e/x",
        "a\u202eb",
    ],
)
def test_what_breaks_ollamas_rules_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError) as refused:
        ModelName.parse(text)

    assert refused.value.hint


@given(names)
def test_a_name_reads_back_as_itself(name: ModelName) -> None:
    assert ModelName.parse(name.qualified) == name
    assert ModelName.parse(str(name)).folded == name.folded


@given(st.text(max_size=100))
def test_any_text_is_a_name_or_refused_and_never_leaves_its_folder(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidNameError:
        return
    assert not any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in name.parts)


@given(st.text(max_size=100))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(f"{reference.name.qualified}") == Reference(reference.name)


def test_a_reference_may_pin_a_digest() -> None:
    digest = f"sha256:{'0' * 64}"

    reference = Reference.parse(f"mistral:7b@{digest}")

    assert reference == Reference(ModelName.parse("mistral:7b"), Digest.parse(digest))
    assert str(reference) == f"mistral:7b@{digest}"


@pytest.mark.parametrize("text", ["mistral@", "mistral@sha256:", "mistral@sha256:../..", "m@x@y"])
def test_a_pin_that_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        Reference.parse(text)


@given(st.binary(max_size=200))
def test_a_digest_reads_back_as_itself(content: bytes) -> None:
    digest = Digest.of(content)

    assert Digest.parse(str(digest)) == digest


@given(st.text(max_size=80))
def test_no_other_text_is_a_digest(text: str) -> None:
    with pytest.raises(InvalidDigestError):
        Digest.parse(text)


def test_a_part_that_differs_only_in_case_is_a_conflict_across_models() -> None:
    stored = ModelName.parse("hf.co/a/b-GGUF:Q8_0")

    assert case_conflict(ModelName.parse("x:q8_0"), stored) == "q8_0"
    assert case_conflict(ModelName.parse("hf.co/A/other"), stored) == "A"
    assert case_conflict(ModelName.parse("x:Q8_0"), stored) is None
    assert case_conflict(stored, stored) is None
