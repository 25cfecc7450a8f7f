import { SwitchyardError, type Topology } from '@switchyard/proto';

/** A change to the cluster that has not happened yet. */
export type Change = { kind: 'lose-node'; node: string } | { kind: 'add-node' } | { kind: 'link-speed'; factor: number };

/** The topology after the change. An added node is a copy of the last one, its links too. @throws bad_plan for an unknown node, or the last one */
export function changedTopology(topology: Topology, change: Change): Topology {
  if (change.kind === 'link-speed') {
    if (!(change.factor > 0 && change.factor < Infinity))
      throw new SwitchyardError('bad_plan', `link speed factor is ${change.factor}, must be a number above 0`, { param: 'link-speed' });
    const faster = <L extends { bandwidth: number }>(link: L): L => ({ ...link, bandwidth: link.bandwidth * change.factor });
    return { ...topology, interNode: faster(topology.interNode), links: topology.links?.map(faster) ?? null };
  }
  if (change.kind === 'add-node') return withCopyOfLast(topology);
  const gone = topology.nodes.findIndex((node) => node.name === change.node);
  if (gone < 0)
    throw new SwitchyardError('bad_plan', `no node is named ${change.node} (there are ${topology.nodes.map((n) => n.name).join(', ')})`, {
      param: 'lose-node',
    });
  if (topology.nodes.length === 1) throw new SwitchyardError('bad_plan', 'the only node cannot be lost', { param: 'lose-node' });
  const renumber = (n: number) => (n > gone ? n - 1 : n);
  return {
    ...topology,
    nodes: topology.nodes.filter((_, n) => n !== gone),
    links:
      topology.links?.filter((l) => l.from !== gone && l.to !== gone).map((l) => ({ ...l, from: renumber(l.from), to: renumber(l.to) })) ??
      null,
  };
}

/** Between the last node and its copy the link is `interNode`: what it would be to itself nobody has said. */
function withCopyOfLast(topology: Topology): Topology {
  const added = topology.nodes.length;
  const like = topology.nodes[added - 1];
  const taken = new Set(topology.nodes.flatMap((node) => [node.name, ...node.workers.map((worker) => worker.name)]));
  let number = added;
  while ([...taken].some((name) => name.startsWith(`added-${number}`))) number++;
  const name = `added-${number}`;
  const workers = like.workers.map((worker, w) => ({ ...worker, name: `${name}w${w}` }));
  const links = topology.links?.filter(({ from, to }) => from !== to && (from === added - 1 || to === added - 1)) ?? [];
  return {
    ...topology,
    nodes: [...topology.nodes, { name, workers }],
    links: topology.links && [
      ...topology.links,
      ...links.map((link) => (link.from === added - 1 ? { ...link, from: added } : { ...link, to: added })),
    ],
  };
}
