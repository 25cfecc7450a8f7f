import { type Plan, SwitchyardError } from '@switchyard/proto';
import type { ModelGraph } from './graph.ts';

/** The lossy option that keeps a token on a few nodes: which node holds which expert, as the router reads it. */
export interface NodeLimit {
  /** Nodes of a token and layer. */
  nodes: number;
  /** Bit n of [moeLayer][expert] is set where node n holds the expert, (moeLayers) of (experts). */
  holders: readonly Int32Array[];
}

/** Nodes are bits of an i32. */
const nodesMax = 32;
/** Ways to choose nodes that are looked at, to be sure that any leave experts enough: all of 4 among 32, and of any number among 16. */
const choicesMax = 50_000;

/** @throws bad_plan where the plan has nodes beyond what a mask holds */
export function nodeLimitOf(plan: Plan, nodes: number): NodeLimit {
  const wrong = plan.workers.find((worker) => worker.node >= nodesMax);
  if (wrong !== undefined) throw badPlan(`worker ${wrong.name} is on node ${wrong.node}; node-limit takes plans of ${nodesMax} nodes`);
  const holders = plan.replicas.map((layer) =>
    Int32Array.from(layer, (workers) => workers.reduce((mask, w) => mask | (1 << plan.workers[w]!.node), 0)),
  );
  return { nodes, holders };
}

/** @throws `invalid_request` for a model whose router has rules of its own, `bad_plan` where some nodes would leave a token too few experts to choose from */
export function checkNodeLimit(
  limit: NodeLimit,
  { modelType, moe, experts, topK }: Pick<ModelGraph, 'modelType' | 'moe' | 'experts' | 'topK'>,
): void {
  const limited = moe.find((node) => node.limitsItself !== null);
  if (limited !== undefined)
    throw new SwitchyardError('invalid_request', `node-limit is not for ${modelType}: ${limited.limitsItself}`, { param: 'node-limit' });
  if (limit.holders.length !== moe.length || limit.holders.some((layer) => layer.length !== experts))
    throw badPlan(`the plan of node-limit is not of ${moe.length} layers with ${experts} experts`);
  limit.holders.forEach((layer, i) => {
    const fewest = fewestExperts(layer, limit.nodes);
    if (fewest < topK)
      throw badPlan(
        `node-limit=${limit.nodes} may leave a token of layer ${moe[i]!.layer} only ${fewest} experts to choose ${topK} from: allow more nodes, or place more experts on each`,
      );
  });
}

/** Experts of a layer on the worst choice of so many nodes; a lower bound where there are too many choices to look at. */
function fewestExperts(layer: Int32Array, nodes: number): number {
  const present = Array.from({ length: nodesMax }, (_, n) => n).filter((n) => layer.some((mask) => (mask >>> n) & 1));
  const most = Math.min(nodes, present.length);
  const held = (chosen: number) => layer.reduce((sum, mask) => sum + ((mask & chosen) !== 0 ? 1 : 0), 0);
  let choices = 1;
  for (let i = 0; i < most; i++) choices = (choices * (present.length - i)) / (i + 1);
  // Of so many nodes the fullest is no emptier than the one that as many nodes do not exceed.
  if (choices > choicesMax) return present.map((n) => held(1 << n)).sort((a, b) => a - b)[most - 1]!;
  let fewest = layer.length;
  const choose = (from: number, left: number, chosen: number) => {
    if (left === 0) fewest = Math.min(fewest, held(chosen));
    else for (let i = from; i + left <= present.length; i++) choose(i + 1, left - 1, chosen | (1 << present[i]!));
  };
  choose(0, most, 0);
  return fewest;
}

function badPlan(problem: string): SwitchyardError {
  return new SwitchyardError('bad_plan', problem, { param: 'node-limit' });
}
