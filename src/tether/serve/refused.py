"""What a client is told when a request is not answered: OpenAI's shape below /v1, ``detail`` elsewhere."""

from __future__ import annotations

from starlette.responses import JSONResponse

from tether.core.printable import printable

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusedError(Exception):
    """A request that is not answered; the message is shown to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Say why.

        Args:
            status: of HTTP.
            message: what came and what is expected.
            param: field of the request.
            code: word for programs, such as ``model_not_found``.
            retry_after: seconds after which it may be tried again.
        """
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after


def refusal(error: RefusedError, *, path: str) -> JSONResponse:
    """The answer that says it, in the shape of that path."""
    message = printable(error.message, keep="\n")
    if path.startswith("/v1/"):
        kind = _KINDS.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
        body = {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}
    else:
        body = {"detail": message}
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse(body, status_code=error.status, headers=headers)
