"""More than one interpreter in a process, and more than one import in an interpreter."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

FIRST = """
    import gc, sys
    import pmemheap
    from pmemheap.containers import SortedMap
    from pmemheap.pmem2 import Map, VMReservation

    heap = pmemheap.Heap.anonymous()
    offset = heap.malloc(100)
    view = heap.view(offset)
    view[:5] = b"hello"
    table = SortedMap(heap, "table")
    reservation = VMReservation(4096, headroom=4096)
    mapped = Map.anonymous(reservation, 0, 4096)

    def use():
        gc.collect()
        assert bytes(view[:5]) == bytes(heap.view(offset)[:5]) == b"hello"
        table[b"key"] = b"value"
        assert list(table.items()) == [(b"key", b"value")]
        with heap.transaction() as tx:
            tx.roots["root"] = tx.malloc(100)
        with mapped.view as memory:
            memory[0] = 1
        reservation.extend(4096)
        reservation.shrink(4096, 4096)
"""

SECOND = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters

    def other(kind):
        if kind == "legacy":
            try:
                return interpreters.create("legacy")
            except TypeError:
                return interpreters.create(isolated=False)
        return interpreters.create()

    code = '''
    try:
        import pmemheap
    except ImportError as error:
        assert "interpreter" in str(error), error
    else:
        raise AssertionError("imported")
    '''
    import textwrap
    for kind in ("legacy", "isolated"):
        number = other(kind)
        for _ in range(2):
            failure = interpreters.run_string(number, textwrap.dedent(code))
            assert failure is None, failure
        use()
        interpreters.destroy(number)
        use()
"""

AGAIN = """
    first, first_use = pmemheap, use
    for name in [name for name in sys.modules if name.partition(".")[0] == "pmemheap"]:
        del sys.modules[name]
    import pmemheap
    assert pmemheap is not first
    with pmemheap.Heap.anonymous() as other:
        other.view(other.malloc(10))
        with other.transaction() as tx:
            tx.free(tx.malloc(10))
    use()
"""

LAST = """
    view.release()
    heap.close()
    mapped.close()
    reservation.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("between", [SECOND, AGAIN], ids=["interpreter", "import"])
def test_a_second_one_does_the_first_no_harm(between: str) -> None:
    program = "".join(textwrap.dedent(part) for part in (FIRST, between, LAST))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
