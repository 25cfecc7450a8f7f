import type { Tensors } from '../checkpoint/tensors.ts';
import type { ExpertBank, ExpertViews } from './graph.ts';
import { halves } from './mlp.ts';

/** SwiGLU experts without biases. */
export function siluBank(layer: number, hidden: number, inter: number, views: readonly ExpertViews[]): ExpertBank {
  return { layer, hidden, inter, activation: 'silu', alpha: 0, limit: 0, views };
}

const noBiases = { gateBias: null, upBias: null, downBias: null };

/**
 * Experts of one layer, as published (2-D tensors per expert: `at.3.gate_proj.weight`) or as transformers 5 saves them (`at.gate_up_proj` [E, 2I, H], gate
 * rows first, and `at.down_proj` [E, H, I]).
 */
export function expertViews(
  tensors: Tensors,
  at: string,
  names: { gate: string; up: string; down: string },
  sizes: { experts: number; hidden: number; inter: number },
): ExpertViews[] {
  const { experts, hidden, inter } = sizes;
  if (tensors.has(`${at}.gate_up_proj`)) return fusedExpertViews(tensors, `${at}.gate_up_proj`, `${at}.down_proj`, sizes);
  return Array.from({ length: experts }, (_, e) => ({
    gate: tensors.matrix(`${at}.${e}.${names.gate}.weight`, inter, hidden),
    up: tensors.matrix(`${at}.${e}.${names.up}.weight`, inter, hidden),
    down: tensors.matrix(`${at}.${e}.${names.down}.weight`, hidden, inter),
    ...noBiases,
  }));
}

/** Experts stacked in 3-D tensors: gate and up together [E, 2I, H], gate rows first, and down [E, H, I]. */
export function fusedExpertViews(
  tensors: Tensors,
  gateUpName: string,
  downName: string,
  { experts, hidden, inter }: { experts: number; hidden: number; inter: number },
): ExpertViews[] {
  const gateUp = tensors.stack(gateUpName, experts, 2 * inter, hidden);
  const down = tensors.stack(downName, experts, hidden, inter);
  return gateUp.map((both, e) => ({ ...halves(both), down: down[e]!, ...noBiases }));
}
