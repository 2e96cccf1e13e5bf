"""What the workers of one training say to each other: sums of arrays and short messages, over TCP, by a deadline.

Worker 0 is the hub: it adds up what the others send, in their order, and sends the sum to all. So all of them get the
same bytes, and the same sum in every run. Who connects proves by HMAC that it knows the key of the training
(``multiprocessing.connection``); nothing is pickled.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlaas_spark.errors import MlaasSparkError, ModelContractError, from_text, reason, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

_KIND = 8  # bytes before what is said: what it is; eight, so that arrays stay aligned
_DATA, _ERROR = b"data    ", b"error   "
_HANDSHAKE_S = 20.0
_GO_ON = "--resume goes on from the last checkpoint"


def listen(host: str) -> socket.socket:
    """The socket at which worker 0 waits for the others: on the network of ``host``, or where it has none, on all."""
    try:
        return socket.create_server((host, 0))
    except OSError:  # a name for us that is not one of this machine's own: an address translated on the way
        return socket.create_server(("", 0))


@dataclass
class Group:
    """The workers of a training, as one of them sees them.

    Attributes:
        rank: Its number; 0 is the hub.
        names: What to call each worker in messages, in their order.
        patience: Seconds that it waits for another one.
    """

    rank: int
    names: Sequence[str]
    patience: float
    _peers: dict[int, Connection] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self.names)

    @classmethod
    def hub(cls, server: socket.socket, key: bytes, names: Sequence[str], patience: float) -> Self:
        """Worker 0, when all others have come to its socket.

        Raises:
            ModelContractError: One does not come.
        """
        group = cls(0, names, patience)
        server.settimeout(patience)
        with server:
            while len(group._peers) < group.size - 1:
                try:
                    caller, _ = server.accept()
                except TimeoutError:
                    missing = [name for rank, name in enumerate(names) if rank and rank not in group._peers]
                    msg = f"{', '.join(missing)} did not reach {names[0]} within {patience:g} s"
                    raise ModelContractError(msg) from None
                try:
                    connection = _connection(caller, _HANDSHAKE_S)
                    deliver_challenge(connection, key)
                    answer_challenge(connection, key)
                    rank = int(connection.recv_bytes(_KIND))
                except (AuthenticationError, EOFError, OSError, ValueError):
                    continue  # nobody of ours: whatever else knocks at open ports
                _set_patience(connection, patience)
                group._peers[rank] = connection
        return group

    @classmethod
    def member(cls, rank: int, address: tuple[str, int], key: bytes, names: Sequence[str], patience: float) -> Self:
        """Another worker, which goes to the socket of worker 0.

        Raises:
            ModelContractError: It is not there.
        """
        try:
            connection = _connection(socket.create_connection(address, min(patience, _HANDSHAKE_S)), patience)
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
            connection.send_bytes(str(rank).encode())
        except (AuthenticationError, EOFError, OSError) as error:
            msg = (
                f"{names[rank]} cannot reach {names[0]} at {address[0]}:{address[1]} ({reason(error)}): executors must "
                "reach each other's ports"
            )
            raise ModelContractError(msg) from error
        return cls(rank, names, patience, {0: connection})

    def total(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum of the arrays of all workers, of one shape and type: the same bytes for each.

        Raises:
            MlaasSparkError: What ended another worker; ModelContractError if it is gone or does not answer.
        """
        own = np.ascontiguousarray(values)
        if self.rank:
            self._send(0, _DATA, own)
            return self._array(0, own)
        whole = own.copy()
        for rank in range(1, self.size):
            whole += self._array(rank, own)
        for rank in range(1, self.size):
            self._send(rank, _DATA, whole)
        return whole

    def gather(self, said: str) -> list[str]:
        """What each worker says, in their order; raises as :meth:`total`."""
        if self.rank:
            self._send(0, _DATA, np.frombuffer(said.encode(), np.uint8))
            return self._receive(0)[_KIND:].decode().split("\0")
        texts = [said, *(self._receive(rank)[_KIND:].decode() for rank in range(1, self.size))]
        for rank in range(1, self.size):
            self._send(rank, _DATA, np.frombuffer("\0".join(texts).encode(), np.uint8))
        return texts

    def check_equal(self, weights: Iterable[Any], what: str) -> None:
        """All workers have the same weights.

        Args:
            weights: This worker's arrays.
            what: After which, for the message.

        Raises:
            ModelContractError: Some have others; or as :meth:`total`.
        """
        digest = hashlib.sha256()
        for array in weights:
            digest.update(np.ascontiguousarray(array).tobytes())
        digests = self.gather(digest.hexdigest())
        if differ := [name for name, found in zip(self.names, digests, strict=True) if found != digests[0]]:
            msg = (
                f"after {what} the weights of {', '.join(differ)} differ from those of {self.names[0]}: train on "
                "executors of one kind of CPU and one environment, and let callbacks change weights alike on all"
            )
            raise ModelContractError(msg)

    def lost(self, why: BaseException) -> MlaasSparkError:
        """What to raise where another connection of the workers has failed: which of them is gone, or what ended it.

        The hub finds out and tells the others, which do not wait long for it.
        """
        if self.rank:
            _set_patience(self._peers[0], min(self.patience, _HANDSHAKE_S))
        try:
            self.gather("")
        except MlaasSparkError as error:
            return error
        return ModelContractError(f"{self.names[self.rank]} has lost the others ({reason(why)}); {_GO_ON}")

    def fail(self, error: MlaasSparkError) -> None:
        """Tell the others what ended this one, as far as they can still be reached; nothing can be said after it."""
        for connection in self._peers.values():
            try:
                connection.send_bytes(_ERROR + to_text(error).encode())
                connection.close()
            except OSError:  # it is gone, for this reason perhaps
                continue
        self._peers.clear()

    def close(self) -> None:
        """Say goodbye."""
        for connection in self._peers.values():
            connection.close()
        self._peers.clear()

    def _send(self, rank: int, kind: bytes, values: npt.NDArray[Any]) -> None:
        message = np.concatenate([np.frombuffer(kind, np.uint8), values.reshape(-1).view(np.uint8)])
        try:
            self._peers[rank].send_bytes(message.data)
        except BlockingIOError:
            raise self._silent(rank) from None
        except OSError as error:
            # why it has gone may still be there to be read
            self._receive(rank)
            raise self._gone(rank) from error

    def _receive(self, rank: int) -> bytes:
        try:
            message = self._peers[rank].recv_bytes()
        except BlockingIOError:
            raise self._silent(rank) from None
        except (EOFError, OSError) as error:
            raise self._gone(rank) from error
        if message[:_KIND] == _ERROR:
            raise from_text(message[_KIND:].decode())
        return message

    def _array(self, rank: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        message = self._receive(rank)
        if len(message) != _KIND + like.nbytes:
            msg = (
                f"{self.names[rank]} trains another model than {self.names[self.rank]}: it has sent "
                f"{len(message) - _KIND} bytes, not {like.nbytes}; model(idim) must give the same model each time"
            )
            raise ModelContractError(msg)
        return np.frombuffer(message, like.dtype, offset=_KIND).reshape(like.shape)

    def _gone(self, rank: int) -> ModelContractError:
        return ModelContractError(
            f"{self.names[rank]} is gone: it was killed or has crashed, its executor's log may say why; {_GO_ON}"
        )

    def _silent(self, rank: int) -> ModelContractError:
        return ModelContractError(
            f"{self.names[rank]} has said nothing for {self.patience:g} s (train.patience); {_GO_ON}"
        )


def _connection(stream: socket.socket, patience: float) -> Connection:
    """Whole messages over a socket, sent at once, that fail where the other side is silent for too long."""
    stream.settimeout(None)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection = Connection(stream.detach())
    _set_patience(connection, patience)
    return connection


def _set_patience(connection: Connection, seconds: float) -> None:
    """Limit reads and writes in the kernel: ``Connection`` itself can only wait for the first byte."""
    limit = struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))  # timeval; 0 would be for ever
    with socket.socket(fileno=os.dup(connection.fileno())) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
