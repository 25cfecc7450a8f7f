import { documentFields, limits } from '@switchyard/proto';
import type { Certificate, ChainClaim, Claim, FanOutClaim, LoadClaim, StarProof, WindowProof } from './certificate.ts';

const { refusal, record, list, integer, amount } = documentFields('certificate', 'bad_plan');

/** Sequences whose homes a certificate lists: those of the tokens that a plan is judged by. */
const sequencesMax = 1 << 24;
/** Rows of a window's program that have a dual: its variables are held in memory by name. */
const dualsMax = 1 << 22;
/** Base64 of half of expertsMax squared bytes. */
const referenceLengthMax = limits.expertsMax ** 2;

/**
 * Checks that a certificate's fields are what their types say, so that the checker may calculate with them. What they prove, and whether their lengths are those of
 * plan and trace, is the checker's to say.
 * @throws SwitchyardError `bad_plan` naming the field, its value and its limit
 */
export function parseCertificate(value: unknown): Certificate {
  const file = record('file', value);
  if (file.format !== 'switchyard-certificate') throw refusal('format', file.format, '"switchyard-certificate"');
  if (file.version !== 1) throw refusal('version', file.version, 1);
  return {
    format: 'switchyard-certificate',
    version: 1,
    plan: text('plan', file.plan, 64),
    trace: text('trace', file.trace, 64),
    claims: list('claims', file.claims, 1, 16).map((claim, i) => parseClaim(`claims[${i}]`, record(`claims[${i}]`, claim))),
  };
}

function parseClaim(field: string, claim: Record<string, unknown>): Claim {
  const rates = { score: amount(`${field}.score`, claim.score), bound: amount(`${field}.bound`, claim.bound) };
  if (claim.kind === 'fan-out') return { kind: 'fan-out', ...rates, ...parseFanOut(field, claim) };
  if (claim.kind === 'load') return { kind: 'load', ...rates, ...parseLoad(field, claim) };
  if (claim.kind === 'chain') return { kind: 'chain', ...rates, ...parseChain(field, claim) };
  throw refusal(`${field}.kind`, claim.kind, '"fan-out", "load" or "chain"');
}

function parseFanOut(field: string, claim: Record<string, unknown>): Omit<FanOutClaim, 'kind' | 'score' | 'bound'> {
  return {
    homes: parseHomes(field, claim),
    nodeExperts: list(`${field}.nodeExperts`, claim.nodeExperts, 1, limits.moeLayersMax).map((layer, l) =>
      integers(`${field}.nodeExperts[${l}]`, layer, limits.nodesMax, limits.expertsMax),
    ),
    layers: list(`${field}.layers`, claim.layers, 1, limits.moeLayersMax).map((each, l) => {
      const at = `${field}.layers[${l}]`;
      const layer = record(at, each);
      return {
        reference: text(`${at}.reference`, layer.reference, referenceLengthMax),
        degreePrice: amounts(`${at}.degreePrice`, layer.degreePrice, limits.expertsMax),
        countPrice: amount(`${at}.countPrice`, layer.countPrice),
      };
    }),
  };
}

function parseLoad(field: string, claim: Record<string, unknown>): Omit<LoadClaim, 'kind' | 'score' | 'bound'> {
  return {
    homes: parseHomes(field, claim),
    speeds: amounts(`${field}.speeds`, claim.speeds, limits.workersMax),
    replicasMax: integers(`${field}.replicasMax`, claim.replicasMax, limits.moeLayersMax, limits.expertsMax * limits.workersMax),
    time: amounts(`${field}.time`, claim.time, limits.moeLayersMax),
  };
}

function parseChain(field: string, claim: Record<string, unknown>): Omit<ChainClaim, 'kind' | 'score' | 'bound'> {
  if (claim.level !== 'node' && claim.level !== 'worker') throw refusal(`${field}.level`, claim.level, '"node" or "worker"');
  return {
    level: claim.level,
    parts: integer(`${field}.parts`, claim.parts, 1, limits.workersMax),
    partExpertsMax: integer(`${field}.partExpertsMax`, claim.partExpertsMax, 1, limits.expertsMax),
    proofs: list(`${field}.proofs`, claim.proofs, 0, limits.moeLayersMax).map((proof, i) =>
      parseProof(`${field}.proofs[${i}]`, record(`${field}.proofs[${i}]`, proof)),
    ),
  };
}

function parseProof(field: string, proof: Record<string, unknown>): StarProof | WindowProof {
  const layer = (name: string) => integer(`${field}.${name}`, proof[name], 0, limits.moeLayersMax - 1);
  if (proof.kind === 'star')
    return {
      kind: 'star',
      layer: layer('layer'),
      before: amounts(`${field}.before`, proof.before, limits.expertsMax),
      after: amounts(`${field}.after`, proof.after, limits.expertsMax),
    };
  if (proof.kind !== 'window') throw refusal(`${field}.kind`, proof.kind, '"star" or "window"');
  return {
    kind: 'window',
    from: layer('from'),
    to: layer('to'),
    duals: list(`${field}.duals`, proof.duals, 0, dualsMax).map((pair, d): [string, number] => {
      const [row, dual] = list(`${field}.duals[${d}]`, pair, 2, 2);
      return [text(`${field}.duals[${d}][0]`, row, 64), integer(`${field}.duals[${d}][1]`, dual, -(2 ** 45), 2 ** 45)];
    }),
  };
}

function parseHomes(field: string, claim: Record<string, unknown>): number[] {
  return integers(`${field}.homes`, claim.homes, sequencesMax, limits.workersMax - 1);
}

function text(field: string, value: unknown, lengthMax: number): string {
  if (typeof value !== 'string' || value.length > lengthMax) throw refusal(field, value, `text of at most ${lengthMax}`);
  return value;
}

function integers(field: string, value: unknown, lengthMax: number, max: number): number[] {
  return list(field, value, 0, lengthMax).map((each, i) => integer(`${field}[${i}]`, each, 0, max));
}

function amounts(field: string, value: unknown, lengthMax: number): number[] {
  return list(field, value, 0, lengthMax).map((each, i) => amount(`${field}[${i}]`, each));
}
