// The command that a report is kept with: whoever runs it again gets the same cells, also once defaults are others.
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/**
 * @param program path inside the repository
 * @param {Record<string, string | undefined>} flags all that it took, by name; those that are undefined, and `out`, are left out
 * @param {Record<string, string>} shown what stands for a value in a report, by the flag's name
 */
export function commandOf(program, { out: _out, ...flags }, shown = {}) {
  const given = Object.entries({ ...flags, ...shown }).filter(([, value]) => value !== undefined);
  return ['node', program, ...given.map(([name, value]) => `--${name} ${portable(value)}`)].join(' ');
}

/** A path of this machine alone is of no use to others: inside the repository it is from there on, elsewhere its name is left. */
function portable(value) {
  if (!path.isAbsolute(value)) return value;
  const inside = path.relative(root, value);
  return inside.startsWith('..') ? path.basename(value) : inside;
}
