import { SwitchyardError } from './errors.ts';

/**
 * Options that trade the first promise (what a client receives does not depend on where experts live) for less traffic. They hold only where somebody asked for
 * them by name, and the name of the numeric class carries them into fingerprints, metrics and reports.
 */
export interface Lossy {
  /** A token's experts of a layer lie on this many nodes of the plan at most; null: on any. */
  nodeLimit: number | null;
  /** Rows to other workers are quantised; null: as the numeric class has them. */
  wire: 'int8' | 'fp8' | null;
}

export const notLossy: Lossy = { nodeLimit: null, wire: null };

/** Bits of a mask of nodes. */
const nodeLimitMax = 32;

/**
 * @param text like "node-limit=2,wire=int8"; empty: nothing is given up
 * @throws SwitchyardError `invalid_request` naming the part that is not known, or whose option was given before
 */
export function parseLossy(text: string): Lossy {
  const lossy = { ...notLossy };
  for (const part of text === '' ? [] : text.split(',')) {
    const [name, ...values] = part.split('=');
    const value = values.join('=');
    if (name === 'node-limit') {
      const nodes = /^[1-9]\d*$/.test(value) ? Number(value) : 0;
      if (nodes < 1 || nodes > nodeLimitMax) throw refused(part, `node-limit is 1 to ${nodeLimitMax} nodes`);
      if (lossy.nodeLimit !== null) throw refused(part, 'node-limit is given twice');
      lossy.nodeLimit = nodes;
    } else if (name === 'wire') {
      if (value !== 'int8' && value !== 'fp8') throw refused(part, 'wire is int8 or fp8');
      if (lossy.wire !== null) throw refused(part, 'wire is given twice');
      lossy.wire = value;
    } else throw refused(part, 'there are node-limit=N, wire=int8 and wire=fp8');
  }
  return lossy;
}

/** A limit that no token can reach would be exact under the name of a lossy class: what is wrong with it, or null. */
export function nodeLimitProblem({ nodeLimit }: Lossy, workers: readonly { node: string | number }[]): string | null {
  const nodes = new Set(workers.map(({ node }) => node)).size;
  if (nodeLimit === null || nodeLimit < nodes) return null;
  return `--lossy node-limit=${nodeLimit} limits nothing: there ${nodes === 1 ? 'is 1 node' : `are ${nodes} nodes`}`;
}

/** What they add to the name of a numeric class. */
export function lossyNames({ nodeLimit, wire }: Lossy): string[] {
  return [...(nodeLimit === null ? [] : [`node-limit-${nodeLimit}`]), ...(wire === null ? [] : [`${wire}-wire`])];
}

/** Whether a server of this numeric class promises the same bits wherever experts live. */
export function promisesSameBits(numericClass: string): boolean {
  return !numericClass.split('+').some((part) => part === 'fast-sum' || part.endsWith('-wire') || part.startsWith('node-limit-'));
}

function refused(part: string, limit: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `lossy is ${JSON.stringify(part.slice(0, 64))}; ${limit}`, { param: 'lossy' });
}
