"""The planner: whatever the machine has, a container gets what nobody claims, and reconciling converges."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, collapse_addresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos_core.network import NetworkNameInvalid, PoolExhausted
from zos_core.network.messages import Address, Link, Route
from zos_core.network.plan import (
    POOLS,
    Attachment,
    AttachPlan,
    NetworkState,
    alias_of,
    attachments,
    is_ours,
    plan_attach,
    plan_reconcile,
    tag_of,
)

EMPTY = NetworkState(links=[], addresses=[], routes=[])
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


def networks(pool: IPv4Network) -> st.SearchStrategy[IPv4Network]:
    return st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(int(pool.network_address), int(pool.broadcast_address)),
        st.integers(pool.prefixlen + 1, 32),
    )


CLAIMS = st.lists(st.one_of(*(networks(pool) for pool in POOLS)), max_size=20)


def with_routes(claims: list[IPv4Network]) -> NetworkState:
    return NetworkState(links=[], addresses=[], routes=[Route(destination=each, table=254) for each in claims])


def made(state: NetworkState, plan: AttachPlan) -> NetworkState:
    """The state after the plan was acted upon."""
    index = 1 + max((link.index for link in state.links), default=1)
    return NetworkState(
        links=[*state.links, Link(index=index, name=plan.link, up=True, kind="veth", alias=plan.alias)],
        addresses=[*state.addresses, Address(index=index, address=plan.host_address, prefix_length=31)],
        routes=[*state.routes, Route(destination=IPv4Network((plan.host_address, 31)), table=254)],
    )


@given(CLAIMS, st.sampled_from(["zos", "demo", "t-1"]))
def test_network_plan_takes_what_nobody_claims(claims: list[IPv4Network], instance: str) -> None:
    try:
        plan = plan_attach(instance, "web", with_routes(claims))
    except PoolExhausted:
        pairs = [claim if claim.prefixlen < 32 else claim.supernet() for claim in claims]
        claimed = list(collapse_addresses(pairs))
        assert all(any(pool.subnet_of(claim) for claim in claimed) for pool in POOLS)
        return
    pair = IPv4Network((plan.host_address, 31))
    assert plan.address in pair
    assert plan.address == plan.host_address + 1
    assert not any(pair.overlaps(claim) for claim in claims)
    assert any(pair.subnet_of(pool) for pool in POOLS)
    assert len(plan.link.encode()) <= 15


@given(st.lists(NAMES, unique=True, max_size=12))
def test_network_plan_gives_each_its_own_and_finds_it_again(names: list[str]) -> None:
    state = EMPTY
    plans = {}
    for name in names:
        plans[name] = plan_attach("zos", name, state)
        state = made(state, plans[name])
    assert len({plan.address for plan in plans.values()} | {plan.host_address for plan in plans.values()}) == 2 * len(
        names
    )
    found = attachments("zos", state)
    assert {name: one.address for name, one in found.items()} == {name: plan.address for name, plan in plans.items()}
    for name in names:
        again = plan_attach("zos", name, state)
        assert again.attached == found[name]
        assert again.describe() == []
    assert attachments("demo", state) == {}


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.sets(st.integers(0, 5)))
def test_network_reconcile_converges(wanted: set[str], have: set[str], unfinished: set[int]) -> None:
    state = EMPTY
    for name in sorted(have):
        state = made(state, plan_attach("zos", name, state))
    half = [
        Link(index=100 + at, name=f"z{tag_of('zos')}-{1000 + at}", up=False, kind="veth") for at in sorted(unfinished)
    ]
    foreign = [
        Link(index=51, name="lo", up=True),
        Link(index=52, name="zfoo-1", up=True),
        Link(index=53, name="z-1", up=True),
    ]
    state = NetworkState(links=[*foreign, *state.links, *half], addresses=state.addresses, routes=state.routes)
    plan = plan_reconcile("zos", wanted, state)
    assert set(plan.keep) == wanted & have
    gone = {link.index for link in plan.remove}
    assert {link.index for link in half} <= gone
    assert not gone & {51, 52, 53}
    assert len(plan.describe()) == len(gone) == len(have - wanted) + len(half)
    after = NetworkState(
        links=[link for link in state.links if link.index not in gone], addresses=state.addresses, routes=state.routes
    )
    assert plan_reconcile("zos", wanted, after).remove == []


def test_network_plan_ways_to_everywhere_are_no_claim() -> None:
    """A default route, and the two halves of it that a VPN writes."""
    plan = plan_attach("zos", "web", with_routes([IPv4Network("0.0.0.0/0"), IPv4Network("0.0.0.0/1")]))
    assert plan == plan_attach("zos", "web", EMPTY)


def test_network_plan_second_pool_then_nothing() -> None:
    plan = plan_attach("zos", "web", with_routes([POOLS[0]]))
    assert plan.address in POOLS[1]
    with pytest.raises(PoolExhausted) as caught:
        plan_attach("zos", "web", with_routes(list(POOLS)))
    assert "100.64.0.0/10" in str(caught.value.hint)


def test_network_plan_two_of_one_name_count_once() -> None:
    """Two supervisors of one instance at once is a fault elsewhere; here the newest counts and the other goes."""
    state = made(EMPTY, plan_attach("zos", "web", EMPTY))
    twice = made(state, plan_attach("zos", "other", state))
    twin = [Link(index=link.index, name=link.name, up=True, alias=alias_of("zos", "web")) for link in twice.links]
    state = NetworkState(links=twin, addresses=twice.addresses, routes=twice.routes)
    plan = plan_reconcile("zos", ["web"], state)
    assert [link.index for link in plan.remove] == [twin[0].index]
    assert plan.keep["web"].index == twin[1].index


def test_network_plan_describes_every_step() -> None:
    lines = plan_attach("zos", "web", EMPTY).describe()
    assert lines[0].startswith("create veth z")
    assert lines[-1].endswith("as zos:zos:web")
    assert len(lines) == 9


@pytest.mark.parametrize("name", ["", "x" * 255, "a\0b", "\u00e9" * 130])
def test_network_plan_names_that_cannot_be_written(name: str) -> None:
    with pytest.raises(NetworkNameInvalid):
        plan_attach("zos", name, EMPTY)


def test_network_plan_links_of_a_like_name_are_not_ours() -> None:
    name = f"z{tag_of('zos')}-1"
    assert is_ours("zos", Link(index=1, name=name, up=True))
    assert not is_ours("zos", Link(index=1, name=name, up=True, alias="zos:other:web"))
    assert not is_ours("zos", Link(index=1, name=name, up=True, alias="mine"))
    assert not is_ours("other", Link(index=1, name=name, up=True))


def test_network_plan_addresses_do_not_change_between_versions() -> None:
    """Links outlive the program: the tag of an instance, and how it is read back, must stay."""
    assert tag_of("zos") == "64569885"
    link = Link(index=7, name="z64569885-0", up=True, alias="zos:zos:a:b")
    state = NetworkState(
        links=[link], addresses=[Address(index=7, address=IPv4Address("100.64.0.8"), prefix_length=31)], routes=[]
    )
    assert attachments("zos", state) == {
        "a:b": Attachment(
            container="a:b",
            link="z64569885-0",
            index=7,
            host_address=IPv4Address("100.64.0.8"),
            address=IPv4Address("100.64.0.9"),
        )
    }
