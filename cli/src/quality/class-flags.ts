import { CommandFailure, exitStatus } from '../failure.ts';

const parts = new Map([
  ['f32', ['--numeric', 'f32']],
  ['bf16', ['--numeric', 'bf16']],
  ['auto', ['--numeric', 'auto']],
  ['int8-experts', ['--expert-dtype', 'int8']],
  ['int4-experts', ['--expert-dtype', 'int4']],
  ['int8-dense', ['--dense-dtype', 'int8']],
]);

/** Parts that become one list of `--lossy`. */
const lossyParts: [RegExp, (found: RegExpExecArray) => string][] = [
  [/^node-limit-(\d+)$/, (found) => `node-limit=${found[1]}`],
  [/^(int8|fp8)-wire$/, (found) => `wire=${found[1]}`],
];

/** "bf16+int8-experts" -> the flags of `switchyard up` that make it so. */
export function classFlags(name: string): string[] {
  const lossy: string[] = [];
  const flags = name.split('+').flatMap((part) => {
    const given = lossyPart(part);
    if (given !== null) lossy.push(given);
    else if (!parts.has(part)) throw unknownPart(name, part);
    return parts.get(part) ?? [];
  });
  return lossy.length === 0 ? flags : [...flags, '--lossy', lossy.join(',')];
}

function lossyPart(part: string): string | null {
  for (const [pattern, text] of lossyParts) {
    const found = pattern.exec(part);
    if (found !== null) return text(found);
  }
  return null;
}

function unknownPart(name: string, part: string): CommandFailure {
  const known = [...parts.keys(), 'node-limit-N', 'int8-wire', 'fp8-wire'];
  return new CommandFailure(`--classes ${name}: ${part} is not known; a class is put together with + from ${known.join(', ')}`, {
    status: exitStatus.usage,
  });
}
