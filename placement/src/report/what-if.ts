import { SwitchyardError, type Topology } from '@switchyard/proto';

/** A change to the cluster that has not happened yet. */
export type Change = { kind: 'lose-node'; node: string } | { kind: 'add-node' } | { kind: 'link-speed'; factor: number };

/** The topology after the change. An added node is a copy of the last one. @throws bad_plan for an unknown node, or the last one */
export function changedTopology(topology: Topology, change: Change): Topology {
  if (change.kind === 'link-speed') {
    if (!(change.factor > 0))
      throw new SwitchyardError('bad_plan', `link speed factor ${change.factor}, must be above 0`, { param: 'link-speed' });
    const faster = <L extends { bandwidth: number }>(link: L): L => ({ ...link, bandwidth: link.bandwidth * change.factor });
    return { ...topology, interNode: faster(topology.interNode), links: topology.links?.map(faster) ?? null };
  }
  if (change.kind === 'add-node') {
    const like = topology.nodes[topology.nodes.length - 1];
    const name = `added-${topology.nodes.length}`;
    return { ...topology, nodes: [...topology.nodes, { name, workers: like.workers.map((w, i) => ({ ...w, name: `${name}w${i}` })) }] };
  }
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
