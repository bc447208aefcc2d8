"""The word for a model on a server, what to ask next, and when a proof harms nobody: decided without any I/O."""

from hypothesis import given
from hypothesis import strategies as st

from syncd.instances.model import Prove
from syncd.instances.ollama import Loaded, Reason, Tagged
from syncd.instances.plan import (
    LONGEST_RETRY,
    NEVER,
    Pace,
    Wish,
    due_proofs,
    due_shows,
    left_behind,
    may_prove,
    next_look,
    next_proof,
    next_show,
    retry_after,
    started_anew,
    still_untouched,
)
from syncd.instances.probe import (
    NOTHING,
    Cell,
    Fault,
    Known,
    Look,
    Proof,
    Published,
    Showing,
    Weights,
    Word,
    judge,
)
from syncd.oci.name import ModelName

NAME, OTHER = ModelName.parse("mistral:7b"), ModelName.parse("llama3.2:3b")
NEW, OLD, TEXT, STRANGE = "a" * 64, "b" * 64, "c" * 64, "d" * 64
WEIGHTS = {NEW: frozenset({"1"}), OLD: frozenset({"2"}), TEXT: frozenset({"1"})}
MODEL = Published(NAME, NEW, WEIGHTS[NEW], since=10.0)
PACE = Pace(every=15.0, deep_every=300.0)
FAULT = Fault(Reason.TIMEOUT, "a: no answer", 0.0)


def weights_of(digest: str) -> Weights | None:
    return WEIGHTS.get(digest)


def runner(
    digest: str = NEW, *, name: str = "mistral:7b", expires: float | None = 99.0, context: int | None = 4096
) -> Loaded:
    return Loaded(name, digest, expires, context, 1, 1)


def look(
    *loaded: Loaded, at: float = 20.0, digest: str | None = NEW, hosted: bool = False, fault: Fault | None = None
) -> Look:
    listed = {} if digest is None else {NAME.folded: Tagged("mistral:7b", digest, hosted)}
    return Look(at, at, "0.12.6", listed, loaded, fault)


def shown(*, digest: str = NEW, at: float = 20.0, fault: Fault | None = None, hosted: bool = False) -> Showing:
    return Showing(digest, at, hosted=hosted, fault=fault)


def proof(*, digest: str = NEW, life: int = 1, at: float = 20.0, fault: Fault | None = None) -> Proof:
    return Proof(digest, life, at, at, fault, 0 if fault is None else 1)


def word(seen: Look | None, known: Known = NOTHING, *, life: int = 1, model: Published = MODEL) -> Cell:
    return judge(model, seen, known, life=life, weights_of=weights_of)


# Words


def test_the_words_follow_from_what_was_seen() -> None:
    served = Known(shown())
    assert word(None).word is Word.UNKNOWN
    assert word(look(at=9.0)).word is Word.UNKNOWN  # published since
    assert word(look(digest=None)).word is Word.MISSING
    assert word(look(fault=FAULT)).fault == FAULT
    assert word(look()).word is Word.UNKNOWN  # it was not asked to show it yet
    assert word(look(), served).word is Word.SERVED
    assert word(look(runner()), served).word is Word.LOADED
    assert word(look(), Known(shown(), loading=True)).word is Word.LOADING
    assert word(look(), Known(shown(), proof())).word is Word.PROVED
    assert word(look(), Known(shown(fault=FAULT))).word is Word.FAILING
    assert word(look(), Known(shown(), proof(fault=FAULT))).word is Word.FAILING
    assert word(look(hosted=True)).word is Word.HOSTED
    assert word(look(), Known(shown(hosted=True))).word is Word.HOSTED


def test_another_digest_is_a_fault_of_its_own() -> None:
    fault = word(look(digest=OLD)).fault

    assert fault is not None
    assert fault.reason is Reason.WRONG_DIGEST


def test_what_was_seen_of_an_older_version_says_nothing_of_this_one() -> None:
    cell = word(look(), Known(shown(digest=OLD), proof(digest=OLD)))

    assert (cell.word, cell.served, cell.proved) == (Word.UNKNOWN, False, False)


def test_a_proof_holds_for_one_life_of_the_server() -> None:
    assert word(look(), Known(shown(), proof(life=1)), life=2).word is Word.SERVED
    assert word(look(), Known(shown(), proof(life=1, fault=FAULT)), life=2).word is Word.SERVED


def test_weights_decide_what_is_stale_and_not_manifests() -> None:
    served = Known(shown())
    stale = word(look(runner(OLD)), served)
    assert (stale.word, stale.stale, stale.stale_until) == (Word.STALE, True, 99.0)
    assert word(look(runner(TEXT)), served).word is Word.LOADED
    assert word(look(runner(STRANGE)), served).word is Word.STALE  # nobody knows what it is: not this, as far as seen
    assert word(look(runner(OLD, name="llama3.2:3b")), served).word is Word.SERVED
    assert word(look(runner(OLD, expires=None), runner(OLD)), served).stale_until is None


def test_new_weights_that_are_proved_stay_so_beside_old_ones() -> None:
    cell = word(look(runner(OLD), runner(NEW)), Known(shown(), proof()))

    assert (cell.word, cell.stale) == (Word.PROVED, True)


def test_another_name_for_the_same_weights_has_them_loaded() -> None:
    assert word(look(runner(TEXT, name="again:latest")), Known(shown())).word is Word.LOADED


# What to ask next


def test_a_publication_makes_a_look_due_at_once() -> None:
    assert next_look([], None, PACE) == 0.0
    assert next_look([MODEL], look(), PACE) == 35.0
    assert next_look([MODEL], look(at=9.0), PACE) == 0.0


def test_a_show_is_due_after_each_publication_and_now_and_then() -> None:
    assert next_show(MODEL, look(), NOTHING, PACE) == 0.0
    assert next_show(MODEL, look(), Known(shown(digest=OLD)), PACE) == 0.0
    assert next_show(MODEL, look(), Known(shown()), PACE) == 320.0
    assert next_show(MODEL, look(), Known(shown(fault=FAULT)), PACE) == 35.0
    for away in (look(digest=None), look(digest=OLD), look(hosted=True), look(fault=FAULT), look(at=9.0)):
        assert next_show(MODEL, away, NOTHING, PACE) == NEVER
    assert due_shows([MODEL], look(), {}, PACE, 0.0) == [MODEL]


def test_a_proof_is_due_once_for_a_version_and_a_life() -> None:
    served = Known(shown())
    assert next_proof(MODEL, look(), served, 1) == 0.0
    assert next_proof(MODEL, look(), Known(shown(), proof()), 1) == NEVER
    assert next_proof(MODEL, look(), Known(shown(), proof()), 2) == 0.0
    assert next_proof(MODEL, look(), Known(shown(), proof(digest=OLD)), 1) == 0.0
    assert next_proof(MODEL, look(), Known(shown(), proof(fault=FAULT)), 1) == 80.0
    for never in (NOTHING, Known(shown(fault=FAULT)), Known(shown(), loading=True), Known(shown(hosted=True))):
        assert next_proof(MODEL, look(), never, 1) == NEVER
    assert due_proofs([MODEL], look(), {NAME.folded: served}, 1, 0.0) == [MODEL]


@given(st.integers(1, 10**6))
def test_what_fails_is_tried_ever_more_rarely_but_within_an_hour(failures: int) -> None:
    assert 60.0 <= retry_after(failures) <= retry_after(failures + 1) <= LONGEST_RETRY


def test_a_start_is_known_by_a_failure_another_version_or_a_dropped_connection() -> None:
    assert not started_anew(None, look(), dropped=False)
    assert not started_anew(look(), look(), dropped=False)
    assert started_anew(look(), look(), dropped=True)
    assert started_anew(look(), look(fault=FAULT), dropped=False)
    assert not started_anew(look(fault=FAULT), look(), dropped=True)  # the failure counted already
    assert started_anew(look(), Look(30.0, 30.0, "0.13.0"), dropped=False)


# Harm

RUNNERS = st.lists(
    st.builds(
        Loaded,
        st.sampled_from(["mistral:7b", "llama3.2:3b", "not a name", ""]),
        st.sampled_from([NEW, OLD, TEXT, STRANGE, ""]),
        st.none() | st.floats(0, 1e10),
        st.none() | st.integers(1, 10**6),
        st.just(1),
        st.just(1),
    ),
    max_size=4,
)


@given(RUNNERS)
def test_by_itself_the_daemon_asks_only_where_nothing_of_others_is_loaded(loaded: list[Loaded]) -> None:
    seen = look(*loaded)
    permission = may_prove(Prove.IDLE, MODEL, seen, weights_of, untouched=frozenset(), wish=Wish.DUE)

    assert permission.allowed == (not loaded)
    ours = frozenset((one.digest, one.expires) for one in loaded if one.expires is not None)
    after = may_prove(Prove.IDLE, MODEL, seen, weights_of, untouched=ours, wish=Wish.DUE)
    assert after.allowed == all(one.expires is not None for one in loaded)


@given(RUNNERS, st.sampled_from(list(Wish)))
def test_never_is_never(loaded: list[Loaded], wish: Wish) -> None:
    assert not may_prove(Prove.NEVER, MODEL, look(*loaded), weights_of, untouched=frozenset(), wish=wish).allowed


@given(RUNNERS, st.sampled_from(list(Prove)), st.sampled_from(list(Wish)))
def test_who_asks_a_loaded_model_sends_its_own_context_length(loaded: list[Loaded], way: Prove, wish: Wish) -> None:
    permission = may_prove(way, MODEL, look(*loaded), weights_of, untouched=frozenset(), wish=wish)
    mine = [one.context_length for one in loaded if one.digest in (NEW, TEXT) and one.name == "mistral:7b"]
    mine += [one.context_length for one in loaded if one.digest == NEW]

    if permission.allowed and any(mine):
        assert permission.context_length in mine
    if way is Prove.IDLE and wish is Wish.ASKED and loaded:
        assert permission.allowed == any(mine)


def test_a_model_whose_context_length_nobody_tells_is_left_alone() -> None:
    seen = look(runner(context=None))

    assert not may_prove(Prove.IDLE, MODEL, seen, weights_of, untouched=frozenset(), wish=Wish.ASKED).allowed


def test_what_a_proof_left_behind_counts_until_somebody_uses_it() -> None:
    left = left_behind(MODEL, look(), look(runner()))

    assert left == {(NEW, 99.0)}
    assert still_untouched(left, look(runner())) == left
    assert still_untouched(left, look(runner(expires=120.0))) == frozenset()
    assert left_behind(MODEL, look(runner()), look(runner(expires=120.0))) == frozenset()  # it was somebody else's
    assert left_behind(MODEL, look(), look(runner(expires=None))) == frozenset()


@given(
    st.none()
    | st.builds(
        look,
        st.builds(runner, st.sampled_from([NEW, OLD])),
        at=st.floats(0, 40),
        digest=st.sampled_from([None, NEW, OLD]),
    ),
    st.builds(
        Known,
        st.none() | st.builds(shown, digest=st.sampled_from([NEW, OLD]), fault=st.sampled_from([None, FAULT])),
        st.none() | st.builds(proof, life=st.integers(1, 2), fault=st.sampled_from([None, FAULT])),
        st.booleans(),
    ),
    st.integers(1, 2),
)
def test_the_words_are_never_mixed_up(seen: Look | None, known: Known, life: int) -> None:
    cell = word(seen, known, life=life)

    assert (cell.word is Word.FAILING) == (cell.fault is not None)
    assert cell.word is not Word.PROVED or cell.proved
    assert cell.word is not Word.SERVED or (cell.served and not cell.proved)
    assert not cell.available or cell.served or cell.proved
    assert cell.word is not Word.STALE or cell.stale
