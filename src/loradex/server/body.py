"""How a JSON body is read: strictly, so that nothing below meets half a character, an infinity or endless nesting."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loradex.errors import InvalidRequest

IGNORED = "x-loradex-ignored"
"""Header that names the fields of a request that the server does not know."""

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_MAX_NAMES = 20


def _whole(value: object) -> object:
    # JSON has one kind of number: clients in some languages write 5 as 5.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**63), le=2**63 - 1)]
"""An integer of 64 bits; 5.0 is one, true and "5" are not."""


class Body(BaseModel):
    """A request body: types are exact, numbers finite, and unknown fields are kept, to be named to the client."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


def ignored(body: Body, strict: bool) -> dict[str, str]:
    """Return the header that names the fields which the server does not know; empty when there are none.

    Raises:
        InvalidRequest: there are some, and the server is strict.
    """
    names = sorted(body.model_extra or ())
    if not names:
        return {}
    shown = [_shown(name) for name in names[:_MAX_NAMES]]
    listed = ", ".join(shown) + (", ..." if len(names) > _MAX_NAMES else "")
    if strict:
        raise InvalidRequest(
            f"Unknown field{'s' if len(names) > 1 else ''}: {listed}",
            param=shown[0],
            hint="Leave them out, or start the server without the strict mode",
        )
    return {IGNORED: listed}


def _shown(name: str) -> str:
    """Return a name as a header may carry it: in ASCII, and with no space at its ends."""
    text = (name if name.isascii() and name.isprintable() else ascii(name)[1:-1])[:64]
    return text if text and text == text.strip() else f'"{text}"'


class JsonRequest(Request):
    """A request whose JSON is read by the standard, which the standard library alone does not enforce."""

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            json.JSONDecodeError: not JSON, NaN or Infinity, half a surrogate pair, or nested beyond reason.
        """
        raw = await self.body()
        try:
            value = json.loads(raw, parse_constant=_refuse)
            if _SURROGATE_ESCAPE.search(raw):
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError:
            raise
        except UnicodeEncodeError as error:
            raise json.JSONDecodeError("half of a surrogate pair", "", 0) from error
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError("not UTF-8", "", error.start) from error
        except RecursionError as error:
            raise json.JSONDecodeError("nested too deeply", "", 0) from error
        except ValueError as error:
            raise json.JSONDecodeError("a number with too many digits", "", 0) from error
        return value


def _refuse(constant: str) -> NoReturn:
    raise json.JSONDecodeError(f"{constant} is not JSON", "", 0)


class JsonRoute(APIRoute):
    """A route whose body is read by `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return strict
