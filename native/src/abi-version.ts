import { NativeError } from './native-error.ts';

/** `SY_ABI_VERSION` of the header that this code is written against. */
export const abiVersion = 5;

/** Kernels of another version, left by an earlier build or brought along prebuilt, would answer in another way or bring the process down. */
export function requireAbi(found: number, file: string): void {
  if (found === abiVersion) return;
  throw new NativeError(
    'unsupported',
    `the kernels in ${file} are of version ${found}, this code needs version ${abiVersion}: run \`npm run build\``,
  );
}
