/** The experts of two parts in one layer, and what decides which part each belongs to. */
export interface LayerSplit {
  /** Transitions that stay if the expert is in the first part, less those if in the second, (experts). */
  gain: Float64Array;
  /** (experts) */
  load: Float64Array;
  /** Experts of the first part. */
  size: number;
  /** Of the peak load, in transitions. */
  loadPrice: number;
  /** Largest load of all other parts. */
  othersPeak: number;
}

/** What a row of load is worth to a proposal, in parts of its price: between none that counts on one side and all of it on the other. */
const loadWeights = [0, 0.1, 0.25, 0.5, 0.75, 1, -0.1, -0.25, -0.5, -0.75, -1];

/** What a split is worth: what stays, less the price of the fullest part. */
export function splitValue({ gain, load, loadPrice, othersPeak }: LayerSplit, inFirst: Uint8Array): number {
  let stays = 0;
  let first = 0;
  let second = 0;
  for (let i = 0; i < gain.length; i++)
    if (inFirst[i] === 1) {
      stays += gain[i];
      first += load[i];
    } else second += load[i];
  return stays - loadPrice * Math.max(othersPeak, first, second);
}

/**
 * The best split found where there are too many to list: by the largest differences with load at several weights (a relaxation of the peak's price has its optimum
 * at one of them, up to one expert), then by exchanges of two experts until none gains. Exact where load has no price. Null where the present one is not bettered.
 */
export function betterSplit(split: LayerSplit, present: Uint8Array): Uint8Array | null {
  const { gain, load, size, loadPrice } = split;
  const least = splitValue(split, present) + 1e-9 * (1 + Math.abs(splitValue(split, present)));
  const experts = Array.from(gain, (_, i) => i);
  let best: { value: number; inFirst: Uint8Array } = { value: least, inFirst: present };
  for (const weight of loadPrice > 0 ? loadWeights : [0]) {
    const key = gain.map((g, i) => g - weight * loadPrice * load[i]);
    const inFirst = new Uint8Array(gain.length);
    for (const i of experts.toSorted((x, y) => key[y] - key[x] || x - y).slice(0, size)) inFirst[i] = 1;
    const value = splitValue(split, inFirst);
    if (value > best.value) best = { value, inFirst };
  }
  if (loadPrice === 0) return best.inFirst === present ? null : best.inFirst;
  const exchanged = best.inFirst.slice();
  return exchange(split, exchanged) > least ? exchanged : null;
}

/** Takes the exchange of two experts that gains most until there is none. Returns the value of the split that it leaves. */
function exchange(split: LayerSplit, inFirst: Uint8Array): number {
  const { gain, load, loadPrice, othersPeak } = split;
  let first = 0;
  let second = 0;
  for (let i = 0; i < gain.length; i++)
    if (inFirst[i] === 1) first += load[i];
    else second += load[i];
  for (;;) {
    const now = Math.max(othersPeak, first, second);
    let best = { gained: 1e-9, i: -1, j: -1 };
    for (let i = 0; i < gain.length; i++) {
      if (inFirst[i] === 0) continue;
      for (let j = 0; j < gain.length; j++) {
        if (inFirst[j] === 1) continue;
        const shift = load[j] - load[i];
        const gained = gain[j] - gain[i] + loadPrice * (now - Math.max(othersPeak, first + shift, second - shift));
        if (gained > best.gained) best = { gained, i, j };
      }
    }
    if (best.i < 0) return splitValue(split, inFirst);
    inFirst[best.i] = 0;
    inFirst[best.j] = 1;
    first += load[best.j] - load[best.i];
    second -= load[best.j] - load[best.i];
  }
}
