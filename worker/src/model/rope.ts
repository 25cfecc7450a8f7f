import { badCheckpoint } from '../checkpoint/bad-checkpoint.ts';
import type { ConfigReader } from '../checkpoint/config-reader.ts';

/**
 * A rotary embedding: `rotated` dims of a head are turned by pos * frequency. Cosines and sines are computed in double and rounded once, by functions that
 * have the same bits in every Node that we run on (a test holds their tables), so every machine has the same table.
 */
export interface Rope {
  /** Dims of a head that are rotated. */
  readonly rotated: number;
  /** Pairs are (x[2i], x[2i+1]) instead of (x[i], x[i + rotated/2]). */
  readonly interleaved: boolean;
  readonly variants: readonly RopeVariant[];
  /** A sequence that may grow beyond this many tokens uses variant 1 from its first token on; Infinity with one variant. */
  readonly longAfter: number;
}

export interface RopeVariant {
  /** Radians per position, (rotated / 2). */
  readonly frequencies: Float64Array;
  /** Factor of cosines and sines. */
  readonly magnitude: number;
}

/** Settings of either generation: `rope_theta` + `rope_scaling`, or transformers 5's `rope_parameters`. What is nested goes before what is not. */
export interface RopeSettings {
  readonly theta: number;
  readonly type: 'default' | 'linear' | 'yarn' | 'longrope' | 'dynamic';
  /** Null for plain RoPE of the first generation. */
  readonly scaling: ConfigReader | null;
  readonly config: ConfigReader;
  /** max_position_embeddings: what is stretched where nothing else is named. See `contextOf` for what a sequence may have. */
  readonly maxContext: number;
}

/** Which of LongRoPE's lists a long sequence divides by. */
export type LongDivisors = 'by length' | 'always short';

/** What a family has of its own. */
export interface RopeTraits {
  readonly divisors?: LongDivisors;
  /** Hunyuan's type "dynamic", whose `alpha` raises theta whatever the length. */
  readonly alpha?: boolean;
  /** `partial_rotary_factor` is in what is passed as `rotated`. */
  readonly partial?: boolean;
}

const ropeTypes = ['default', 'linear', 'yarn', 'longrope', 'su'] as const;
/** With `alpha`, Hunyuan's, which is static in spite of its name. Without, the angles would depend on the length so far. */
const ropeTypesWithAlpha = [...ropeTypes, 'dynamic'] as const;

export function readRopeSettings(config: ConfigReader): RopeSettings {
  const modern = config.nested('rope_parameters');
  const legacy = config.nested('rope_scaling');
  // Which of the two counts, and whose theta, differs between readers of such files.
  if (modern !== null && legacy !== null)
    throw config.refusal('rope_scaling', 'absent, as it must be beside rope_parameters: settings belong in one of them');
  const scaling = (modern ?? legacy)?.orNullIfEmpty() ?? null;
  for (const kind of ['full_attention', 'sliding_attention'])
    if (scaling?.has(kind)) throw scaling.refusal(kind, 'absent: rope settings are the same for all layers here');
  const theta = (scaling?.has('rope_theta') ? scaling : config).positive('rope_theta', 10_000);
  // Phi-3's early configs say "su" for what was published as LongRoPE.
  const named =
    scaling?.choice(
      scaling.has('rope_type') ? 'rope_type' : 'type',
      scaling.has('alpha') ? ropeTypesWithAlpha : ropeTypes,
      modern === null ? undefined : 'default',
    ) ?? 'default';
  return { theta, type: named === 'su' ? 'longrope' : named, scaling, config, maxContext: config.count('max_position_embeddings') };
}

/** Far above any published context: it keeps positions and their bytes numbers. */
const contextMax = 16_777_216;

/**
 * Tokens that a sequence may have. Published configs whose context is stretched have the product in max_position_embeddings (DeepSeek's, GPT-OSS'); who
 * stretches one by YaRN as its model card says adds the factor and leaves that key. Linear scaling says of itself what it begins from only where it names
 * it: elsewhere max_position_embeddings may be either. The coordinator follows the same rule (coordinator/src/model-folder.ts).
 */
export function contextOf(config: ConfigReader): number {
  const { type, scaling, maxContext } = readRopeSettings(config);
  const stretched = type === 'yarn' || (type === 'linear' && namesOriginalContext(config, scaling!));
  if (!stretched) return maxContext;
  const context = Math.floor(originalContext(config, scaling!, maxContext) * scaling!.positive('factor'));
  if (context > contextMax) throw scaling!.refusal('factor', `one that makes a context of at most ${contextMax} tokens`);
  return Math.max(maxContext, context);
}

/** The rotary embedding of a family. `divisors` of LongRoPE: see `longRope`. */
export function readRope(
  config: ConfigReader,
  rotated: number,
  interleaved: boolean,
  { divisors = 'by length', alpha = false, partial = false }: RopeTraits = {},
): Rope {
  const settings = readRopeSettings(config);
  if (settings.type === 'dynamic' && !alpha) throw settings.scaling!.refusal('type', `supported here; supported: ${ropeTypes.join(', ')}`);
  if (!partial && rotatedDims(config, rotated, 1) !== rotated) throw holderOfPart(config).refusal('partial_rotary_factor', '1');
  if (rotated < 2 || rotated % 2 !== 0)
    throw badCheckpoint(config.path, `rotary embedding of ${rotated} dims: pairs need an even number, 2 at least`);
  const rope = { rotated, interleaved, ...variantsOf(settings, rotated, divisors) };
  const lastPosition = contextOf(config);
  // At the last position, too: a frequency may be a number and what it has turned by then none.
  for (const { frequencies, magnitude } of rope.variants)
    if (!Number.isFinite(magnitude) || !frequencies.every((f) => Number.isFinite(f * lastPosition)))
      throw badCheckpoint(config.path, 'rope settings give angles that are not finite', 'rope_parameters');
  return rope;
}

/** Dims of a head that `partial_rotary_factor` leaves to rotate. */
export function rotatedDims(config: ConfigReader, headDim: number, fallback: number): number {
  const factor = holderOfPart(config).positive('partial_rotary_factor', fallback);
  if (factor > 1) throw config.refusal('partial_rotary_factor', 'a part of the head: 1 at most');
  return Math.floor(headDim * factor);
}

function holderOfPart(config: ConfigReader): ConfigReader {
  const nested = config.nested('rope_parameters') ?? config.nested('rope_scaling');
  return nested?.has('partial_rotary_factor') ? nested : config;
}

function variantsOf(settings: RopeSettings, rotated: number, divisors: LongDivisors): Pick<Rope, 'variants' | 'longAfter'> {
  const { scaling, type, theta } = settings;
  const one = (frequencies: Float64Array, magnitude: number) => ({
    variants: [{ frequencies, magnitude }],
    longAfter: Number.POSITIVE_INFINITY,
  });
  if (type === 'default' || scaling === null) return one(plainFrequencies(theta, rotated), 1);
  if (type === 'linear')
    return one(
      plainFrequencies(theta, rotated).map((f) => f / scaling.positive('factor')),
      1,
    );
  if (type === 'dynamic') return one(plainFrequencies(theta * power(scaling.positive('alpha'), rotated / (rotated - 2)), rotated), 1);
  if (type === 'yarn') return one(yarnFrequencies(settings, scaling, rotated), yarnMagnitude(scaling));
  return longRope(settings, scaling, rotated, divisors);
}

function plainFrequencies(theta: number, rotated: number): Float64Array {
  return Float64Array.from({ length: rotated / 2 }, (_, i) => power(theta, (-2 * i) / rotated));
}

/** base^exponent for a base above 0. Not `**`: from Node 24 on that is the C library's, which differs from Node 22's in the last bit of one result in ten. */
function power(base: number, exponent: number): number {
  return Math.exp(exponent * Math.log(base));
}

/**
 * YaRN (Peng et al. 2023, arXiv:2309.00071): low frequencies are divided by the factor, high ones stay, with a linear ramp between the dims that turn
 * `beta_fast` and `beta_slow` times within the original context.
 */
function yarnFrequencies({ theta, config, maxContext }: RopeSettings, scaling: ConfigReader, rotated: number): Float64Array {
  const factor = scaling.positive('factor');
  const original = originalContext(config, scaling, maxContext);
  const dimTurning = (turns: number) => (rotated * Math.log(original / (2 * Math.PI * turns))) / (2 * Math.log(theta));
  const truncate = scaling.flag('truncate', true);
  const fast = dimTurning(scaling.positive('beta_fast', 32));
  const slow = dimTurning(scaling.positive('beta_slow', 1));
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  let high = Math.min(truncate ? Math.ceil(slow) : slow, rotated - 1);
  if (low === high) high += 0.001;
  return plainFrequencies(theta, rotated).map((f, i) => {
    const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return (f / factor) * ramp + f * (1 - ramp);
  });
}

function namesOriginalContext(config: ConfigReader, scaling: ConfigReader): boolean {
  return [config, scaling].some((holder) => holder.has('original_max_position_embeddings'));
}

/** Tokens of the context before it was stretched; where it is said twice, the model's own key counts. */
function originalContext(config: ConfigReader, scaling: ConfigReader, fallback?: number): number {
  const holder = config.has('original_max_position_embeddings') ? config : scaling;
  return holder.count('original_max_position_embeddings', fallback);
}

function yarnMagnitude(scaling: ConfigReader): number {
  if (scaling.has('attention_factor')) return scaling.positive('attention_factor');
  const factor = scaling.positive('factor');
  const mscale = scaling.nonNegative('mscale', 0);
  const mscaleAllDim = scaling.nonNegative('mscale_all_dim', 0);
  if (mscale !== 0 && mscaleAllDim !== 0) return yarnMscale(factor, mscale) / yarnMscale(factor, mscaleAllDim);
  return yarnMscale(factor, 1);
}

/** YaRN's growth of attention with the context: 0.1 m ln(s) + 1. */
export function yarnMscale(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/**
 * LongRoPE (Ding et al. 2024, arXiv:2402.13753): one list of divisors up to the original context, another beyond. Which one is a property of the request
 * (how long it may grow), fixed for its life: cached keys would be wrong after a change. With divisors 'always short' only the magnitude depends on length.
 */
function longRope(
  { theta, config, maxContext }: RopeSettings,
  scaling: ConfigReader,
  rotated: number,
  divisors: LongDivisors,
): Pick<Rope, 'variants' | 'longAfter'> {
  const original = originalContext(config, scaling);
  const stretch = scaling.has('factor') ? scaling.positive('factor') : maxContext / original;
  const usual = stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(original));
  const fallback = scaling.positive('attention_factor', usual);
  const variant = (factors: string, mscale: string): RopeVariant => {
    const list = scaling.numbers(factors, rotated / 2);
    if (list.some((d) => d <= 0)) throw scaling.refusal(factors, 'a list of positive divisors');
    return { frequencies: plainFrequencies(theta, rotated).map((f, i) => f / list[i]!), magnitude: scaling.positive(mscale, fallback) };
  };
  const short = variant('short_factor', 'short_mscale');
  const long = variant('long_factor', 'long_mscale');
  return { variants: [short, divisors === 'by length' ? long : { ...long, frequencies: short.frequencies }], longAfter: original };
}

/** Fills table (variants * positions, rotated) with cosines, then sines. */
export function fillRopeTable(rope: Rope, positions: number, table: Float32Array): void {
  const half = rope.rotated / 2;
  rope.variants.forEach(({ frequencies, magnitude }, v) => {
    for (let p = 0; p < positions; p++) {
      const row = (v * positions + p) * rope.rotated;
      for (let i = 0; i < half; i++) {
        const angle = p * frequencies[i]!;
        table[row + i] = Math.cos(angle) * magnitude;
        table[row + half + i] = Math.sin(angle) * magnitude;
      }
    }
  });
}
