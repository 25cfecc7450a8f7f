// Parts of a run on hosts, one file each, so that a run may be cut into pieces: what is there already is not measured again.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';

/**
 * @param settings all that decides a part's figures besides its name: a part of others is none
 * @param again no part that was there before is one
 */
export function openParts(folder, { settings, command, madeBy, again }) {
  mkdirSync(folder, { recursive: true });
  const fileOf = (name) => path.join(folder, `${name}.json`);
  return {
    keep: (name, part, whole = true) => writeFileSync(fileOf(name), JSON.stringify({ ...part, whole, settings, command, madeBy })),
    /** A part that does not say what made it is none, and one that was cut short is measured again. */
    has(name) {
      if (again || !existsSync(fileOf(name))) return false;
      const part = JSON.parse(readFileSync(fileOf(name), 'utf8'));
      return part.madeBy !== undefined && part.whole && isDeepStrictEqual(part.settings, settings);
    },
  };
}
