"""What `kubectl apply` checks of spec.source: `patio_protocol.sources` once more, as the CEL rules of the CRD. Pure.

Whatever passes here, the sidecar understands: a rule may be narrower than `parse_source`, never wider. Each rule is a
regular expression on one field, which must or must not be found, so that tests hold the very same expressions against
`parse_source`. They are read by RE2, which knows no lookahead, and by Python; only what both read alike is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic.config import JsonDict

FORMS = (
    "hf://org/repo[@revision][/folder], org/repo, s3://bucket[/folder], obs://bucket[/folder], pvc://folder or "
    "file:///folder"
)

MAX_URI_BYTES = 1024

_PART = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?"
_REPOSITORY = rf"{_PART}/{_PART}(@[A-Za-z0-9]([A-Za-z0-9._+-]|%2[Ff]){{0,254}})?"
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]"
_SEGMENT = r"[^/\x00-\x1f\x7f]+"
_FOLDER = rf"{_SEGMENT}(/{_SEGMENT})*/*"

IN_CLEAR = r"^http://"
"""Endpoints to which what is sent can be read on its way, but for those that are `IN_THE_POD`."""
IN_THE_POD = r"^http://(localhost|127[.][0-9]+[.][0-9]+[.][0-9]+|\[::1\])(:[0-9]+)?(/.*)?$"
"""Endpoints at the pod itself, by names that the sidecar takes for it as well."""
NOT_IN_CLEAR = "credentials are not sent without TLS: use https:// in endpoint, or set allowPlainHTTP: true"

_IS_HUB = r"^(hf://|[^:]*$)"
_IN_HUB = r"^(hf://)?[^/:@]*/[^/@]*@"


def is_in_clear(endpoint: str) -> bool:
    """Return whether what is sent to an endpoint can be read on its way."""
    lower = endpoint.lower()
    return re.search(IN_CLEAR, lower) is not None and re.search(IN_THE_POD, lower) is None


@dataclass(frozen=True)
class Rule:
    """A regular expression that a field must match, or must not."""

    field: str
    """Of spec.source."""
    pattern: str
    message: str
    forbidden: bool = False

    def keeps(self, value: str) -> bool:
        """Tell whether a value is right by this rule."""
        # RE2's $ is the very end, Python's may be before a last newline.
        return (re.search(self.pattern.replace("$", r"\Z"), value) is None) == self.forbidden

    def to_api(self) -> JsonDict:
        """Return the rule in CEL, for the schema of spec.source."""
        found = f"self.{self.field}.matches(r'{self.pattern}')"
        kept = f"!{found}" if self.forbidden else found
        if self.field != "uri":
            kept = f"!has(self.{self.field}) || {kept}"
        return {"rule": kept, "message": self.message, "fieldPath": f".{self.field}"}


FORMATS = (
    Rule(
        "uri",
        rf"^((hf://)?{_REPOSITORY}/?|hf://{_REPOSITORY}/+({_FOLDER})?|(s3|obs)://{_BUCKET}(/+({_FOLDER})?)?"
        rf"|pvc:///*{_FOLDER}|file:///+{_FOLDER})$",
        f"uri must be one of {FORMS}",
    ),
    Rule("uri", r"(^|/)[.][.]?(/|$)", "uri must not have . or .. as a part of its path", forbidden=True),
    Rule(
        "uri",
        r"^(hf://)?([^/:@]*/)?[^/:@]*(--|[.][.])",
        "uri does not name a Hugging Face repository: such a name has no -- and no ..",
        forbidden=True,
    ),
    Rule(
        "uri",
        r"^hf://[^/]+/[^/]+/+(tree|blob|resolve)/",
        "uri is the address of a page of the Hub: write hf://org/repo@revision/folder",
        forbidden=True,
    ),
    Rule("uri", r"^(s3|obs)://[^/]*[.][.]", "uri does not begin with the name of a bucket", forbidden=True),
    Rule(
        "uri",
        rf"{_IN_HUB}[^/]*([.][.]|%2[Ff]%2[Ff]|(%2[Ff]|[.]lock)(/|$))",
        "the part after the @ in uri is not the name of a branch, tag or commit",
        forbidden=True,
    ),
    Rule(
        "revision",
        r"^[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}$",
        "revision must be the name of a branch, tag or commit",
    ),
    Rule(
        "revision",
        r"[.][.]|//|(/|[.]lock)$",
        "revision must be the name of a branch, tag or commit: such a name has no .. and no //, and does not "
        "end in / or .lock",
        forbidden=True,
    ),
    Rule(
        "endpoint",
        r"^(https?://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$",
        "endpoint must be a URL like https://s3.example.com",
    ),
    Rule(
        "endpoint",
        r"^(https?://)?(169[.]254[.]|\[[Ff][Ee][89ABab]|\[[Ff][Dd]00:[Ee][Cc]2:)",
        "endpoint is an address of the node itself, and Patio sends no requests there",
        forbidden=True,
    ),
    Rule("region", r"^[A-Za-z0-9-]{1,64}$", "region must be the name of a region, like eu-west-1"),
)
"""The form of each field by itself."""

RULES: tuple[JsonDict, ...] = (
    *(rule.to_api() for rule in FORMATS),
    {
        "rule": f"size(bytes(self.uri)) <= {MAX_URI_BYTES}",
        "message": f"uri must not be longer than {MAX_URI_BYTES} bytes",
        "fieldPath": ".uri",
    },
    {
        "rule": f"!has(self.revision) || self.uri.matches(r'{_IS_HUB}')",
        "message": "revision is for Hugging Face sources only: hf://org/repo or org/repo",
        "fieldPath": ".revision",
    },
    {
        "rule": f"!has(self.revision) || !self.uri.matches(r'{_IN_HUB}')",
        "message": "the revision is given twice: after the @ in uri and in revision; give it once",
        "fieldPath": ".revision",
    },
    {
        "rule": "!has(self.endpoint) || !self.uri.matches(r'^(file|pvc)://')",
        "message": "endpoint is for hf://, s3:// and obs:// sources: files of file:// and pvc:// are not fetched",
        "fieldPath": ".endpoint",
    },
    {
        "rule": "!has(self.secretRef) || !self.uri.matches(r'^(file|pvc)://')",
        "message": "secretRef is for hf://, s3:// and obs:// sources: files of file:// and pvc:// need no credentials",
        "fieldPath": ".secretRef",
    },
    {
        # Of a change only, and the webhook rejects at creation: the object that is stored already keeps to the schema,
        # so that Kubernetes before 1.30, which has no ratcheting, takes its status.
        "rule": "self == oldSelf || !has(self.secretRef) || !has(self.endpoint) || "
        "(has(self.allowPlainHTTP) && self.allowPlainHTTP) || "
        f"!self.endpoint.matches(r'{IN_CLEAR}') || self.endpoint.matches(r'{IN_THE_POD}')",
        "message": NOT_IN_CLEAR,
        "fieldPath": ".endpoint",
    },
    {
        "rule": "!has(self.region) || self.uri.matches(r'^(s3|obs)://')",
        "message": "region is for s3:// and obs:// sources",
        "fieldPath": ".region",
    },
    {
        "rule": "!has(self.addressingStyle) || self.uri.matches(r'^(s3|obs)://')",
        "message": "addressingStyle is for s3:// and obs:// sources",
        "fieldPath": ".addressingStyle",
    },
)
"""The `x-kubernetes-validations` of spec.source."""
