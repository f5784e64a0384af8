"""Links, addresses and routes of containers, by rtnetlink; no `ip` binary.

    async with Network.open(instance) as network:                        # netlink socket of our own namespace
        plan = await network.plan(name); plan.describe() -> list[str]    # pure planning, for --plan
        attachment = await network.attach(name, netns_fd, rtnl_fd)       # idempotent: the same call adopts what is whole, replaces what is half made
        attachment.link, .host_address, .address (IPv4Address of the container), .prefix_length
        await network.detach(name)                                       # absent is not an error
        result = await network.reconcile(wanted_names)                   # result.kept: Mapping[name, Attachment], result.removed: tuple of link names
    ports = [parse_published("127.0.0.1:8080:80")]    # PublishedPort(host_address, host_port, container_port, protocol), .listen/.connect(address) for forward
    limitations() -> tuple[Limitation(code, text), ...]                  # what a container's network cannot do yet, for `inspect`

The descriptors stay the caller's; `netns_fd` is `netns/<name>`, `rtnl_fd` is `rtnl/<name>` of hold.
"""
