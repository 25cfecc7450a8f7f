import { rowsOf, type TensorView } from '../checkpoint/tensor-view.ts';
import type { Tensors } from '../checkpoint/tensors.ts';
import type { Columns, Part, Slot } from './graph.ts';
import { columns, type GraphBuilder } from './graph-builder.ts';

export interface GatedMlp {
  /** (inter, hidden), (inter, hidden), (hidden, inter) */
  gate: TensorView;
  up: TensorView;
  down: TensorView;
}

/** `at.gate_proj`, `at.up_proj`, `at.down_proj`. */
export function projections(tensors: Tensors, at: string, hidden: number, inter: number): GatedMlp {
  return {
    gate: tensors.matrix(`${at}.gate_proj.weight`, inter, hidden),
    up: tensors.matrix(`${at}.up_proj.weight`, inter, hidden),
    down: tensors.matrix(`${at}.down_proj.weight`, hidden, inter),
  };
}

/** The halves of a projection that computes gate and up together, gate first. */
export function halves(both: TensorView): { gate: TensorView; up: TensorView } {
  const inter = both.n / 2;
  return { gate: rowsOf(both, 0, inter), up: rowsOf(both, inter, inter) };
}

/** down(silu(gate x) * up x), added into the residual stream. */
export function denseMlp(g: GraphBuilder, layer: number, mlp: GatedMlp): void {
  gated(g, `layers.${layer}.dense`, 'dense', mlp, columns(g.residual), 'add');
}

/** The same for experts that every token uses; returns where their output lies until the routed ones join it. */
export function sharedMlp(g: GraphBuilder, layer: number, mlp: GatedMlp): Slot {
  const out = g.slot('shared', mlp.down.n);
  gated(g, `layers.${layer}.shared`, 'shared', mlp, columns(out), 'store');
  return out;
}

function gated(g: GraphBuilder, name: string, part: Part, { gate, up, down }: GatedMlp, out: Columns, mode: 'store' | 'add'): void {
  const inter = gate.n;
  const both = g.slot(`${part}GateUp`, 2 * inter);
  const activated = g.slot(`${part}Activated`, inter);
  g.linear({ name: `${name}.gateUp`, part, x: columns(g.normed), out: columns(both), weights: [gate, up] });
  g.gatedAct(both, inter, activated);
  g.linear({ name: `${name}.down`, part, x: columns(activated), out, weights: [down], mode });
}
