"""The Merkle tree: known vectors, a naive oracle, an independent implementation, and tiles that are damaged."""

import hashlib
from pathlib import Path

import metamorphic_log as other
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.tree import DamagedTileError, Tree, tile_path
from compliance.verify import (
    EMPTY_ROOT,
    Frontier,
    NotVerifiedError,
    leaf_hash,
    root_from_consistency,
    root_from_inclusion,
)
from tests.compliance.recording import naive_consistency, naive_inclusion, naive_root

# The eight leaves of the certificate-transparency project's tests, and the heads over the first 1 to 8 of them.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
REAL = [leaf_hash(bytes.fromhex(one)) for one in LEAVES]


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(n).encode()) for n in range(count)]


def grown(folder: Path, hashes: list[bytes]) -> Tree:
    tree = Tree(folder)
    tree.extend(hashes)
    return tree


@pytest.mark.parametrize("size", range(9))
def test_the_vectors_of_certificate_transparency(tmp_path: Path, size: int) -> None:
    tree, frontier = grown(tmp_path, REAL), Frontier()
    for leaf in REAL[:size]:
        frontier.add(leaf)
    expected = bytes.fromhex(ROOTS[size - 1]) if size else hashlib.sha256(b"").digest()
    assert tree.root(size) == frontier.root() == expected
    for (index, of), path in INCLUSION.items():
        assert [one.hex() for one in tree.inclusion(index, of)][: len(path)] == path
    for (old, new), path in CONSISTENCY.items():
        assert [one.hex() for one in tree.consistency(old, new)] == path


def test_all_proofs_of_small_trees_are_those_of_the_definition_and_of_an_independent_implementation(
    tmp_path: Path,
) -> None:
    most = 40
    hashes, tree = leaves(most), grown(tmp_path, leaves(most))
    for size in range(1, most + 1):
        root = naive_root(hashes[:size])
        assert tree.root(size) == root
        for index in range(size):
            proof = tree.inclusion(index, size)
            assert proof == naive_inclusion(index, hashes[:size])
            assert root_from_inclusion(index, size, hashes[index], proof) == root
            other.verify_inclusion(index, size, hashes[index], list(proof), root)
        for old in range(1, size + 1):
            proof = tree.consistency(old, size)
            assert proof == naive_consistency(old, hashes[:size])
            assert root_from_consistency(old, size, naive_root(hashes[:old]), proof) == root
            other.verify_consistency(old, size, list(proof), naive_root(hashes[:old]), root)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 700), min_size=1, max_size=4))
def test_however_it_grows_the_tree_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int]
) -> None:
    folder, total = tmp_path_factory.mktemp("tiles"), sum(sizes)
    hashes, done = leaves(total), 0
    for step in sizes:
        tree = Tree(folder, done)
        tree.extend(hashes[done : done + step])
        done += step
    assert Tree(folder, total).root(total) == naive_root(hashes)
    if total:
        size = data.draw(st.integers(1, total))
        old, index = data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
        root, tree = naive_root(hashes[:size]), Tree(folder, total)
        other.verify_inclusion(index, size, tree.leaf(index), list(tree.inclusion(index, size)), root)
        proof = list(tree.consistency(old, size))
        other.verify_consistency(old, size, proof, naive_root(hashes[:old]), root)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), size=st.integers(2, 300))
def test_a_proof_for_one_thing_is_none_for_another(data: st.DataObject, size: int) -> None:
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof = list(naive_inclusion(index, hashes))
    old = data.draw(st.integers(1, size - 1))
    step = list(naive_consistency(old, hashes))
    root, old_root = naive_root(hashes), naive_root(hashes[:old])
    change = data.draw(st.sampled_from(["flip", "drop", "add", "swap", "place", "leaf"]))
    with pytest.raises((NotVerifiedError, AssertionError)):
        changed, wrong_index, wrong_leaf = proof, index, hashes[index]
        if change == "place":
            wrong_index = (index + data.draw(st.integers(1, size - 1))) % size
        elif change == "leaf":
            wrong_leaf = leaf_hash(b"another")
        else:
            changed = altered(data, proof, change)
        assert root_from_inclusion(wrong_index, size, wrong_leaf, changed) == root
    if change in {"flip", "drop", "add"}:
        with pytest.raises((NotVerifiedError, AssertionError)):
            assert root_from_consistency(old, size, old_root, altered(data, step, change)) == root
    with pytest.raises((NotVerifiedError, AssertionError)):
        assert root_from_consistency(old, size, leaf_hash(b"another"), step) == root


def altered(data: st.DataObject, proof: list[bytes], change: str) -> list[bytes]:
    place = data.draw(st.integers(0, len(proof) - 1))
    if change == "flip":
        byte = data.draw(st.integers(0, 31))
        one = bytearray(proof[place])
        one[byte] ^= data.draw(st.integers(1, 255))
        return [*proof[:place], bytes(one), *proof[place + 1 :]]
    if change == "drop":
        return [*proof[:place], *proof[place + 1 :]]
    if change == "add":
        return [*proof[:place], leaf_hash(b"more"), *proof[place:]]
    other_place = (place + 1) % len(proof)
    if proof[place] == proof[other_place]:
        return []
    swapped = list(proof)
    swapped[place], swapped[other_place] = swapped[other_place], swapped[place]
    return swapped


@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        (0, 0, 256, "0/000"),
        (0, 1234067, 256, "0/x001/x234/067"),
        (1, 1000, 17, "1/x001/000.p/17"),
        (2, 5, 1, "2/005.p/1"),
    ],
)
def test_tiles_lie_where_tlog_tiles_says(level: int, number: int, width: int, path: str) -> None:
    assert str(tile_path(level, number, width)) == path


def test_a_tree_of_70000_leaves_has_the_tiles_of_the_example_in_tlog_tiles(tmp_path: Path) -> None:
    tree = grown(tmp_path, leaves(70_000))
    full = [path for path in (tmp_path / "0").rglob("*") if path.is_file() and ".p" not in path.parent.name]
    assert len(full) == 273
    assert (tmp_path / "0" / "273.p" / "112").stat().st_size == 112 * 32
    assert (tmp_path / "1" / "000").stat().st_size == 256 * 32
    assert (tmp_path / "1" / "001.p" / "17").is_file()
    assert (tmp_path / "2" / "000.p" / "1").is_file()
    frontier = Frontier()
    for leaf in leaves(70_000):
        frontier.add(leaf)
    assert tree.root(70_000) == frontier.root()
    proof, root = tree.consistency(65_537, 70_000), tree.root(65_537)
    other.verify_consistency(65_537, 70_000, list(proof), root, frontier.root())


def test_to_go_on_reads_the_right_edge_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(tmp_path, leaves(3000))
    seen: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (seen.append(path.name), read(path))[1])
    tree = Tree(tmp_path, 3000)
    tree.extend(leaves(10))
    assert len(seen) == 2, "one begun tile on each level"


@pytest.mark.parametrize("how", ["missing", "torn", "longer"])
def test_a_tile_that_is_not_whole_is_never_used(tmp_path: Path, how: str) -> None:
    tree = grown(tmp_path, leaves(600))
    path = tmp_path / "0" / "001"
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-32] if how == "torn" else path.read_bytes() + bytes(32))
    with pytest.raises(DamagedTileError, match="missing or torn"):
        Tree(tmp_path, 600).leaf(300)
    assert tree.size == 600


def test_what_is_asked_of_a_tree_must_be_in_it(tmp_path: Path) -> None:
    tree = grown(tmp_path, leaves(5))
    assert Tree(tmp_path / "none").root(0) == EMPTY_ROOT
    for wrong in (lambda: tree.root(6), lambda: tree.inclusion(5, 5), lambda: tree.consistency(4, 3)):
        with pytest.raises(ValueError, match=r"leaves|leaf|proof"):
            wrong()
