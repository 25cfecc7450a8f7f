/**
 * exp(x) for x <= 0 in IEEE doubles, from additions and multiplications alone, so that its bits do not depend on the JavaScript engine or the machine.
 * Within 2 ulp of the true value. Below `EXP_FLOOR` it is 0: such a term is under 2^-72 of the largest one and cannot change a float64 sum of a vocabulary.
 *
 * x = (k / 32) ln 2 + r with |r| <= ln 2 / 64; exp(x) = 2^(k >> 5) * 2^((k & 31) / 32) * exp(r), and exp(r) is a Taylor polynomial of degree 6.
 */
const EXP_FLOOR = -50;

const STEPS_PER_UNIT = 46.16624130844683;
/** ln 2 / 32 in two parts; the first ends in 22 zero bits, so that its product with k is exact. */
const STEP_HIGH = 0.02166084937925916;
const STEP_LOW = 1.3239129268154012e-11;

/** 2^(j / 32) for j = 0 .. 31, as literals because a library's pow may round differently elsewhere. */
// biome-ignore format: a table
const FRACTION = Float64Array.of(
  1.0, 1.0218971486541166, 1.0442737824274138, 1.0671404006768237, 1.0905077326652577, 1.1143867425958924, 1.1387886347566916, 1.1637248587775775,
  1.189207115002721, 1.215247359980469, 1.241857812073484, 1.2690509571917332, 1.2968395546510096, 1.3252366431597413, 1.3542555469368927, 1.383909881963832,
  Math.SQRT2, 1.4451808069770467, 1.4768261459394993, 1.5091644275934228, 1.5422108254079407, 1.5759808451078865, 1.6104903319492543, 1.645755478153965,
  1.681792830507429, 1.718619298122478, 1.7562521603732995, 1.7947090750031072, 1.8340080864093424, 1.8741676341103, 1.9152065613971474, 1.9571441241754002,
);

/** 2^(k / 32) for k = -74 * 32 .. 31: all that x > EXP_FLOOR can need. A product with a power of two is exact, so it may stand in the table. */
const LOWEST = -74 * 32;
const SCALE = Float64Array.from({ length: 32 - LOWEST }, (_, i) => FRACTION[i & 31] * 2 ** ((LOWEST + i) >> 5));

export function expNonPositive(x: number): number {
  if (!(x > EXP_FLOOR)) return 0;
  const k = Math.floor(x * STEPS_PER_UNIT + 0.5);
  const r = x - k * STEP_HIGH - k * STEP_LOW;
  const p = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720))))));
  return p * SCALE[k - LOWEST];
}

/** Entries that are added in one call: a function that is called often is compiled better than a long loop that was entered once. */
export const STRIDE = 1024;

/** `sum` and, one after another, exp((row[i] - max) * perUnit) for the entries of stride `stride`. */
export function addExps(row: Float64Array, stride: number, max: number, perUnit: number, sum: number): number {
  const end = Math.min((stride + 1) * STRIDE, row.length);
  let total = sum;
  for (let i = stride * STRIDE; i < end; i++) total += expNonPositive((row[i] - max) * perUnit);
  return total;
}

/** The sum of all of them, added in ascending order. */
export function sumOfExps(row: Float64Array, max: number, perUnit: number): number {
  let sum = 0;
  for (let stride = 0; stride * STRIDE < row.length; stride++) sum = addExps(row, stride, max, perUnit, sum);
  return sum;
}
