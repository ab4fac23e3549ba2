"""A Spanner that bars its caller: a real gRPC server that passes calls on to the emulator, but for those that it denies.

The emulator knows no permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc

THREADS = 4
STREAMED = ("StreamingRead", "ExecuteStreamingSql")


class Barring(grpc.GenericRpcHandler):
    """Listens on `host`. `denied(method)` says whether a method of that name is refused, with `code`."""

    def __init__(
        self, target: str, denied: Callable[[str], bool], code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED
    ) -> None:
        self.host = ""
        self._channel = grpc.insecure_channel(target)
        self._denied = denied
        self._code = code
        self._server = grpc.server(ThreadPoolExecutor(THREADS))
        self._server.add_generic_rpc_handlers([self])

    def __enter__(self) -> Barring:
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop(None).wait()
        self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method
        if method.rpartition("/")[2] in STREAMED:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: self._stream(self._channel.unary_stream(method), request, context, method)
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._call(self._channel.unary_unary(method), request, context, method)
        )

    def _call(self, passing: Any, request: bytes, context: Any, method: str) -> Any:
        self._deny(context, method)
        try:
            return passing(request, metadata=_passed(context))
        except grpc.RpcError as error:
            _fail(context, error)

    def _stream(self, passing: Any, request: bytes, context: Any, method: str) -> Iterator[bytes]:
        self._deny(context, method)
        try:
            yield from passing(request, metadata=_passed(context))
        except grpc.RpcError as error:
            _fail(context, error)

    def _deny(self, context: Any, method: str) -> None:
        name = method.rpartition("/")[2]
        if self._denied(name):
            context.abort(self._code, f"Caller is missing IAM permission for {name}.")


def _passed(context: Any) -> list[tuple[str, str]]:
    return [(key, value) for key, value in context.invocation_metadata() if key.startswith(("google", "x-goog"))]


def _fail(context: Any, error: Any) -> None:
    context.set_trailing_metadata([pair for pair in error.trailing_metadata() or () if pair[0] == "grpc-status-details-bin"])
    context.abort(error.code(), error.details())
