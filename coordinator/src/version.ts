import { readFileSync } from 'node:fs';

/** All packages of the project have one version. */
export const version = (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }).version;
