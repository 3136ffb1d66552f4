"""Proofs, keys and replay: what is taken and what is not, for any input."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.access.authorizer import Authorizer, Call, Hook
from patio.access.keys import GRACE, Keys, follow
from patio.access.loopback import CHANGES, is_loopback, is_meant
from patio.access.metrics import OFF, REMIND_SECONDS, warn_while_off
from patio.access.openness import CLOSED, EVERYONE, HOOK, Openness
from patio.access.proof import MISSING, NO_KEYS, Request, RequestRejection, read
from patio.access.replay import KEPT, Use, UsedProofs
from patio.access.settings import AccessSettings
from patio.settings import read_settings
from patio.variables import SettingsError
from patio_protocol.authentication import LEEWAY, LIFETIME, MAX_ENDORSEMENTS, ProofClaims
from patio_testing.sidecar.proof_builders import NOW, POD, Signer

LOAD = Request("POST", "/v1/load_lora_adapter")
BODY = b'{"lora_name": "a", "lora_path": "/a"}'
ROOT = Signer(1)


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def new_authorizer(
    *keys: Signer, clock: Clock | None = None, started: float = NOW - 3600, **settings: str
) -> Authorizer:
    clock = clock or Clock()
    at, clock.now = clock.now, started
    public_keys = tuple(key.public for key in keys or (ROOT,))
    authorizer = Authorizer(AccessSettings(keys=public_keys, pod_uid=POD, **settings), clock, clock)
    clock.now = at
    return authorizer


def outcome(
    authorizer: Authorizer, token: str, request: Request = LOAD, body: bytes = BODY, chain: tuple[str, ...] = ()
) -> str:
    """Return the code of the denial, or `taken`."""
    admitted = authorizer.admit(request, CLOSED, [f"Patio-Proof {token}"], chain)
    if isinstance(admitted, ProofClaims):
        denial = authorizer.finish(admitted, body)
        return "taken" if denial is None else denial.code
    assert isinstance(admitted, RequestRejection)
    return admitted.code


def signed(by: Signer = ROOT, **changes: object) -> str:
    return by.proof(LOAD.method, LOAD.target, BODY, **changes)


# --- one proof


def test_what_the_operator_signed_is_taken_once() -> None:
    authorizer, token = new_authorizer(), signed()
    assert outcome(authorizer, token) == "taken"
    assert outcome(authorizer, token) == "ProofReplayed"
    assert outcome(authorizer, signed()) == "taken"


@given(st.data())
def test_proof_with_any_character_changed_is_rejected(data: st.DataObject) -> None:
    token = signed()
    at = data.draw(st.integers(0, len(token) - 1))
    replacement = data.draw(
        st.characters(codec="ascii", categories=("L", "N", "P")).filter(lambda character: character != token[at])
    )
    assert outcome(new_authorizer(), token[:at] + replacement + token[at + 1 :]) != "taken"


@given(st.data())
def test_proof_that_was_cut_or_grew_is_rejected(data: st.DataObject) -> None:
    token = signed()
    length = data.draw(st.integers(0, len(token) - 1))
    suffix = data.draw(st.text(st.characters(codec="ascii", exclude_characters=" "), min_size=1, max_size=8))
    assert outcome(new_authorizer(), token[:length]) != "taken"
    assert outcome(new_authorizer(), token + suffix) != "taken"


@given(st.text(max_size=300))
def test_no_text_at_all_breaks_the_authorizer(text: str) -> None:
    assert outcome(new_authorizer(), text) in ("ProofInvalid", "UnknownKey")
    assert read(text) is None or text.count(".") == 2


@given(st.text("POSTGEDL", max_size=6), st.text(st.characters(codec="latin-1"), max_size=40), st.binary(max_size=64))
def test_proof_is_for_its_method_target_and_body_only(method: str, target: str, body: bytes) -> None:
    request = Request(method, target)
    same_head, same_body = request == LOAD, body == BODY
    expected = "taken" if same_head and same_body else "ProofForAnotherRequest"
    assert outcome(new_authorizer(), signed(), request, body) == expected


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "another-pod"}, "ProofForAnotherPod"),
        ({"exp": NOW + LIFETIME + 1}, "ProofInvalid"),
        ({"exp": NOW}, "ProofInvalid"),
        ({"iat": NOW + LEEWAY + 1}, "ProofInvalid"),
        ({"iat": NOW - LIFETIME - LEEWAY - 1}, "ProofExpired"),
        ({"iat": NOW - 3601, "exp": NOW}, "ProofInvalid"),
        ({"typ": "patio-endorsement"}, "ProofInvalid"),
    ],
)
def test_proof_for_another_pod_or_time_is_rejected_with_own_code(changes: dict[str, object], code: str) -> None:
    assert outcome(new_authorizer(), signed(**changes)) == code


def test_clocks_of_nodes_may_differ_by_the_leeway() -> None:
    assert outcome(new_authorizer(), signed(iat=NOW + LEEWAY)) == "taken"
    assert outcome(new_authorizer(), signed(iat=NOW - LIFETIME - LEEWAY)) == "taken"


def test_proof_from_before_a_restart_is_rejected() -> None:
    clock = Clock(NOW + 5)
    restarted = new_authorizer(clock=clock, started=NOW + 4)
    assert outcome(restarted, signed()) == "ProofExpired"
    assert outcome(restarted, signed(iat=NOW + 5)) == "taken"


def test_signature_of_another_key_under_known_name_is_rejected() -> None:
    head, claims, _ = signed().split(".")
    signature = signed(Signer(2)).split(".")[2]
    assert outcome(new_authorizer(), f"{head}.{claims}.{signature}") == "ProofInvalid"


def test_denial_of_a_missing_proof_names_what_is_missing() -> None:
    missing = new_authorizer().admit(LOAD, CLOSED, [], ())
    basic = new_authorizer().admit(LOAD, CLOSED, ["Basic eDp5"], ())
    assert isinstance(missing, RequestRejection)
    assert missing == basic
    assert (missing.code, "port-forward" in missing.message) == ("ProofMissing", True)
    rejection = Authorizer(AccessSettings(), Clock(), Clock()).admit(LOAD, CLOSED, [f"Patio-Proof {signed()}"], ())
    assert isinstance(rejection, RequestRejection)
    assert "PATIO_OPERATOR_KEYS" in rejection.message


def test_two_authorizations_are_none() -> None:
    headers = [f"Patio-Proof {signed()}", f"Patio-Proof {signed()}"]
    assert isinstance(new_authorizer().admit(LOAD, CLOSED, headers, ()), RequestRejection)


# --- keys that follow each other


def chain_of(*signers: Signer) -> tuple[str, ...]:
    return tuple(signer.endorse(successor) for signer, successor in pairwise(signers))


def test_pod_follows_rotation_when_shown_endorsements() -> None:
    second, third = Signer(2), Signer(3)
    authorizer = new_authorizer()
    assert outcome(authorizer, signed(third)) == "UnknownKey"
    assert outcome(authorizer, signed(third), chain=chain_of(ROOT, second, third)) == "taken"
    assert outcome(authorizer, signed(third)) == "taken", "what was learnt is remembered"


def test_superseded_key_counts_for_a_grace_and_endorses_nothing() -> None:
    clock, second, stranger = Clock(), Signer(2), Signer(9)
    authorizer = new_authorizer(clock=clock)
    assert outcome(authorizer, signed(second), chain=chain_of(ROOT, second)) == "taken"
    assert outcome(authorizer, signed(ROOT)) == "taken", "another replica of the operator may not know yet"
    assert outcome(authorizer, signed(stranger), chain=chain_of(ROOT, stranger)) == "UnknownKey"
    clock.now += GRACE + 1
    assert outcome(authorizer, signed(ROOT, iat=clock.now)) == "UnknownKey"
    assert outcome(authorizer, signed(second, iat=clock.now)) == "taken"


def test_endorsements_with_a_bad_proof_teach_nothing() -> None:
    second = Signer(2)
    authorizer = new_authorizer()
    head, claims, _ = signed(second).split(".")
    assert outcome(authorizer, f"{head}.{claims}.{'A' * 86}", chain=chain_of(ROOT, second)) == "ProofInvalid"
    assert outcome(authorizer, signed(second)) == "UnknownKey"


@given(st.permutations(range(4)), st.integers(0, 4))
def test_only_an_unbroken_chain_leads_to_a_key(order: list[int], missing: int) -> None:
    signers = [ROOT, *map(Signer, range(11, 15))]
    chain = chain_of(*signers)
    shown_chain = [chain[at] for at in order if at != missing]
    keys = follow(Keys(frozenset({ROOT.public})), shown_chain, NOW)
    assert len(keys.current) == 1
    reached = keys.current <= {signers[-1].public}
    assert reached == (order == sorted(order) and missing == 4)


@given(st.data())
def test_endorsement_with_any_character_changed_leads_nowhere(data: st.DataObject) -> None:
    (text,) = chain_of(ROOT, Signer(2))
    at = data.draw(st.integers(0, len(text) - 1))
    replacement = data.draw(
        st.characters(codec="ascii", categories=("L", "N", "P")).filter(lambda character: character != text[at])
    )
    keys = Keys(frozenset({ROOT.public}))
    assert follow(keys, [text[:at] + replacement + text[at + 1 :]], NOW) == keys


def test_proof_endorses_nothing_and_chain_length_is_bounded() -> None:
    keys = Keys(frozenset({ROOT.public}))
    assert follow(keys, [signed()], NOW) == keys
    signers = [ROOT, *map(Signer, range(100, 100 + MAX_ENDORSEMENTS + 1))]
    assert follow(keys, chain_of(*signers), NOW).current == {signers[MAX_ENDORSEMENTS].public}


# --- proofs used


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, KEPT / 2)), max_size=40))
def test_no_proof_is_taken_twice_within_the_time_that_it_is_kept(uses: list[tuple[int, float]]) -> None:
    used_proofs, used_at, now = UsedProofs(), dict[int, float](), NOW
    for proof_id, seconds in uses:
        now += seconds
        is_replay = proof_id in used_at and now < used_at[proof_id] + KEPT
        assert used_proofs.use(str(proof_id), now + LIFETIME, now) is (Use.REUSED if is_replay else Use.FIRST)
        if not is_replay:
            used_at[proof_id] = now


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, KEPT)), max_size=40))
def test_no_proof_is_ever_taken_twice_however_clocks_are_set(uses: list[tuple[int, float]]) -> None:
    used_proofs, taken, now = UsedProofs(), set[int](), 5.0
    for proof_id, seconds in uses:
        now += seconds
        if used_proofs.use(str(proof_id), NOW + proof_id, now) is Use.FIRST:
            assert proof_id not in taken
            taken.add(proof_id)


def test_proofs_beyond_memory_are_rejected_until_some_expire() -> None:
    used_proofs = UsedProofs(at_most=2)
    assert [used_proofs.use(proof_id, NOW, NOW) for proof_id in "abc"] == [Use.FIRST, Use.FIRST, Use.FULL]
    assert used_proofs.use("c", NOW + KEPT, NOW + KEPT) is Use.FIRST


@pytest.mark.parametrize("seconds", [-7200.0, -3600.0, -45.0, 45.0, 3600.0])
def test_clock_set_after_start_changes_nothing(seconds: float) -> None:
    clock, monotonic = Clock(NOW - seconds), Clock(17.0)
    authorizer = Authorizer(AccessSettings(keys=(ROOT.public,), pod_uid=POD), clock, monotonic)
    clock.now, monotonic.now = NOW + 1, 18.0
    assert outcome(authorizer, signed(iat=NOW - 5)) == "ProofExpired", "from before the start"
    token = signed(iat=NOW + 1)
    assert outcome(authorizer, token) == "taken"
    assert outcome(authorizer, token) == "ProofReplayed"


def test_used_proof_is_rejected_after_clock_was_set_back() -> None:
    clock, monotonic = Clock(), Clock(4000.0)
    authorizer = Authorizer(AccessSettings(keys=(ROOT.public,), pod_uid=POD), clock, monotonic)
    first_proof, later_proof = signed(iat=NOW), signed(iat=NOW + 600)
    assert outcome(authorizer, first_proof) == "taken"
    clock.now, monotonic.now = NOW + 600, 4001.0
    assert outcome(authorizer, later_proof) == "taken"
    clock.now, monotonic.now = NOW + 2, 4002.0
    assert outcome(authorizer, first_proof) == "ProofReplayed"
    monotonic.now = 4003.0 + KEPT
    assert outcome(authorizer, first_proof) == "ProofReplayed", "forgotten, and not new for that"


# --- who needs a proof at all


JSON = ("application/json",)
OPENNESS = st.sampled_from([CLOSED, HOOK])
WORDS = st.text(st.characters(codec="latin-1"), max_size=20)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_inside(peer: str) -> None:
    assert is_loopback(peer)
    assert new_authorizer().is_open(Call(peer, "POST", JSON), CLOSED)


@pytest.mark.parametrize("peer", ["127.0.0.6", "::ffff:127.0.0.6"])
def test_what_a_meshs_proxy_hands_on_is_from_outside(peer: str) -> None:
    assert not is_loopback(peer)
    assert not new_authorizer().is_open(Call(peer, "POST", JSON), CLOSED)


@pytest.mark.parametrize(
    "peer", ["10.1.2.3", "0.0.0.0", "::", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost", "", None]
)
def test_everything_else_is_outside(peer: str | None) -> None:
    assert not is_loopback(peer)
    assert not new_authorizer().is_open(Call(peer, "POST", JSON), CLOSED)


@given(st.text(st.characters(codec="ascii"), max_size=10), st.lists(WORDS, max_size=2), st.lists(WORDS, max_size=2))
def test_from_outside_nothing_but_openness_opens(method: str, types: list[str], hosts: list[str]) -> None:
    call = Call("10.1.2.3", method, types, hosts)
    assert new_authorizer().is_open(call, EVERYONE)
    assert not new_authorizer().is_open(call, CLOSED)
    assert not new_authorizer().is_open(call, HOOK)


@given(st.sampled_from(["GET", "HEAD", "OPTIONS", "TRACE", "post", "PATCH"]) | WORDS, OPENNESS)
def test_from_loopback_a_get_needs_a_proof(method: str, openness: Openness) -> None:
    is_change = method in ("POST", "PUT", "DELETE")
    assert new_authorizer().is_open(Call("127.0.0.1", method, JSON, ("localhost:9091",)), openness) == is_change


@pytest.mark.parametrize(
    "types",
    [
        (),
        ("text/plain",),
        ("application/x-www-form-urlencoded",),
        ("multipart/form-data; boundary=application/json",),
        ("text/plain; application/json",),
        ("application/json", "text/plain"),
        ("application/json, text/plain",),
        ("application/jsonp",),
    ],
)
def test_from_loopback_what_a_page_can_post_needs_a_proof(types: tuple[str, ...]) -> None:
    assert not new_authorizer().is_open(Call("127.0.0.1", "POST", types), CLOSED)


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; charset=utf-8"])
def test_from_loopback_posted_json_is_free(content_type: str) -> None:
    assert new_authorizer().is_open(Call("127.0.0.1", "POST", (content_type,)), CLOSED)


@pytest.mark.parametrize(
    ("host", "free"),
    [
        ("localhost:9091", True),
        ("LOCALHOST", True),
        ("app.localhost:80", True),
        ("sidecar", True),
        ("127.0.0.1:9091", True),
        ("10.0.0.7", True),
        ("[::1]:9091", True),
        ("rebound.example:9091", False),
        ("127.0.0.1.nip.io", False),
        ("localhost.example", False),
        ("127.0.0.1:9091.example", False),
    ],
)
def test_from_loopback_a_page_of_a_rebound_name_needs_a_proof(host: str, free: bool) -> None:
    assert new_authorizer().is_open(Call("127.0.0.1", "POST", JSON, (host,)), CLOSED) == free


def test_hook_opens_the_drain_of_its_pod_and_nothing_else() -> None:
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of foo
    authorizer = new_authorizer(drain_proof_sha256=digest)
    drain = Request("GET", "/v1/drain?timeout=22")
    assert authorizer.admit(drain, HOOK, ["Patio-Drain foo"], ()) == Hook()
    assert authorizer.admit(drain, HOOK, ["Patio-Drain foo"], ()) == Hook(), "drains join each other"
    for authorization, openness in (
        ("Patio-Drain bar", HOOK),
        ("Patio-Drain foo", CLOSED),
        ("Patio-Drain ", HOOK),
    ):
        assert isinstance(authorizer.admit(drain, openness, [authorization], ()), RequestRejection)
    assert isinstance(new_authorizer().admit(drain, HOOK, ["Patio-Drain "], ()), RequestRejection), (
        "a pod without a hook"
    )


# --- settings and the off-switch


def test_settings_are_read_and_checked() -> None:
    variables = {"PATIO_OPERATOR_KEYS": f" {ROOT.public}, {Signer(2).public}", "POD_UID": POD}
    access = read_settings([], variables).access
    assert access == AccessSettings(True, (ROOT.public, Signer(2).public), POD)
    assert not read_settings(["--access-control", "off"], variables).access.enforced
    assert not read_settings([], {"PATIO_ACCESS_CONTROL": "Off"}).access.enforced
    assert read_settings(["--access-control", "on"], {"PATIO_ACCESS_CONTROL": "off"}).access.enforced


@pytest.mark.parametrize(
    ("argv", "variables", "names"),
    [
        (["--access-control", "maybe"], {}, "--access-control"),
        ([], {"PATIO_ACCESS_CONTROL": "false"}, "PATIO_ACCESS_CONTROL"),
        ([], {"PATIO_OPERATOR_KEYS": "short", "POD_UID": POD}, "PATIO_OPERATOR_KEYS"),
        ([], {"PATIO_OPERATOR_KEYS": ROOT.public}, "POD_UID"),
        ([], {"PATIO_DRAIN_PROOF_SHA256": "x"}, "PATIO_DRAIN_PROOF_SHA256"),
        ([], {"PATIO_OPERATOR_KEY": ROOT.public}, "PATIO_OPERATOR_KEYS"),
        ([], {"PATIO_ACCESS_CONTROLS": "off"}, "PATIO_ACCESS_CONTROL"),
    ],
)
def test_wrong_settings_of_access_stop_the_start(argv: list[str], variables: dict[str, str], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        read_settings(argv, variables)


async def test_warning_of_the_off_switch_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    pauses: list[float] = []

    class EnoughError(Exception):
        pass

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        await warn_while_off(sleep)
    assert pauses == [REMIND_SECONDS] * 3
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [OFF] * 3


@pytest.mark.parametrize("denial", [MISSING, NO_KEYS])
def test_missing_proof_names_every_call_that_needs_none(denial: RequestRejection) -> None:
    for method in CHANGES:
        assert is_meant(method, ["application/json"], ["localhost"])
        assert method in denial.message
    assert "`Content-Type: application/json`" in denial.message
