from asyncio import AbstractEventLoop
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Callable, Coroutine, Optional, SupportsIndex, Type, TypeVar

from interp_guard import Guard

_T = TypeVar("_T")

class guard:
    def __init__(self, interpreter_id: Optional[SupportsIndex] = ...) -> None: ...
    async def __aenter__(self) -> Guard: ...
    async def __aexit__(
        self,
        type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None: ...

class LoopThread:
    def __init__(self, *, loop_factory: Callable[[], AbstractEventLoop] = ..., name: str = ...) -> None: ...
    @property
    def loop(self) -> AbstractEventLoop: ...
    @property
    def closed(self) -> bool: ...
    def run(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]: ...
    def close(self) -> None: ...
    def __enter__(self) -> LoopThread: ...
    def __exit__(
        self,
        type: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None: ...
