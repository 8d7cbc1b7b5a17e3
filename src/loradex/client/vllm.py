"""The verbs of `loradex adapter` on a vLLM server, by its own routes; what it cannot do is refused, and says why."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from loradex.client.jobs import Progress
from loradex.client.views import AdapterView, Change, InvalidView, VersionView
from loradex.client.wire import Call
from loradex.errors import AdapterNotFound, Conflict, LoradexError, NotFound, ServerUnreachable, Unsupported

if TYPE_CHECKING:
    from loradex.client.client import Adapters, Client

SWITCHES = "vLLM replaces in place: answers under way go on with the new weights, in mid-sentence"
"""What a replace does there; ours can let them end as they began."""

_GATE = "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"


def adapters_of(client: Client) -> Adapters | VllmAdapters:
    """Return the verbs as the server has them: ours, or vLLM's where it has no `/api`.

    Whatever else is wrong with the server, such as a key that it does not know, shows at the first verb.
    """
    try:
        client.info()
    except (Unsupported, NotFound):
        return VllmAdapters(client)
    except LoradexError:
        pass
    return client.adapters


def _cannot(what: str, hint: str = "Serve the model with `loradex serve`, which can") -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise Unsupported(f"A vLLM server {what}", hint=hint)

    return refuse


class VllmAdapters:
    """Adapters of a vLLM server. It numbers no versions and keeps no history: what it lists has version 0.

    Args:
        client: with the server's address and key.

    Raises:
        Unsupported: from every method, for what the server does not offer; loading and unloading among it, where it was
            started without.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> builtins.list[AdapterView]:
        """Return every adapter: its name, where it came from and its base."""
        return self._client.send(Call("GET", "/v1/models", _read_cards))

    def invalid(self) -> builtins.list[InvalidView]:
        """Return nothing: it does not watch folders."""
        return []

    def get(self, name: str) -> AdapterView:
        """Return one adapter. Raises AdapterNotFound."""
        for each in self.list():
            if each.name == name:
                return each
        raise AdapterNotFound(f"{self._client.url} has no adapter `{name}`")

    def add(
        self,
        name: str,
        path: Path | str,
        *,
        mode: str = "drain",
        replace: bool = True,
        allow_pickle: bool = False,
        canary: float | None = None,
        sha256: str = "",
        defaults: Mapping[str, Any] | None = None,
        told: Progress | None = None,
    ) -> Change:
        """Load the adapter at `path`, on the server's machine, under `name`; in place of one that is there.

        Whatever `mode` says, answers under way switch to the new weights; the change's `notes` say so. `allow_pickle`
        has no meaning: vLLM always reads `.bin` files. Nor has `told`: it says nothing before it is done.

        Raises:
            Conflict: the name is taken and `replace` is false.
            NotFound: the server finds no adapter there.
            LoradexError: it refused; with its own words.
        """
        asked = {"a canary": canary is not None, "a pinned digest": bool(sha256), "defaults": bool(defaults)}
        if missing := [what for what, is_asked in asked.items() if is_asked]:
            _cannot(f"has nothing like {' and '.join(missing)}")()
        known = any(each.name == name for each in self.list())
        if known and not replace:
            raise Conflict(f"The adapter `{name}` exists", hint="Leave out `--no-replace` to replace it")
        body: dict[str, Any] = {"lora_name": name, "lora_path": str(path)}
        # Only where it is needed: vLLM reads such an adapter from disk again at every step.
        self._send("load", body | ({"load_inplace": True} if known else {}))
        return Change(name, 0, notes=(SWITCHES,) if known else ())

    def remove(self, name: str, version: int | None = None) -> None:
        """Unload an adapter. Raises AdapterNotFound where the server has none of that name."""
        if version is not None:
            _cannot("has no versions", f"Remove it as a whole: loradex adapter rm {name}")()
        try:
            self._send("unload", {"lora_name": name})
        except NotFound as error:
            raise AdapterNotFound(f"{self._client.url} has no adapter `{name}`") from error

    upload = begin_add = _cannot("takes no files and begins no jobs", "Give a folder of its own machine, and wait")
    check = _cannot(
        "checks an adapter only by loading it", "Check it here: loradex adapter check PATH --base DIR, without a server"
    )
    promote = _cannot("has no versions to promote")
    rollback = _cannot("keeps no version to go back to", "Add the former one again: loradex adapter add NAME PATH")
    remove_alias = _cannot("has no aliases")
    canary = end_canary = _cannot("gives a name's requests to one adapter only")
    shadow = end_shadow = _cannot("copies no requests to another version")
    configure = _cannot("keeps no defaults for an adapter", "Send them with each request")
    history = _cannot("keeps no history")

    def _send(self, verb: str, body: Mapping[str, Any]) -> None:
        try:
            self._client.send(Call("POST", f"/v1/{verb}_lora_adapter", lambda *_: None, body))
        except Unsupported as error:
            what = f"The server at {self._client.url} does not {verb} adapters while it runs"
            raise Unsupported(what, hint=_GATE) from error


def _read_cards(data: Any, _: Mapping[str, str]) -> list[AdapterView]:
    try:
        cards = [(str(card["id"]), card.get("root"), card.get("parent")) for card in data["data"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise ServerUnreachable("The server's list of models is not in OpenAI's form") from error
    return [
        AdapterView(name, True, 0, "", versions=(VersionView(0, "", root or "", parent, resident=True, tier=""),))
        for name, root, parent in cards
        if parent is not None
    ]
