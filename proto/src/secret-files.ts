import { readBoundedFile } from './bounded-file.ts';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';
import type { LinkTls } from './link.ts';

/**
 * The file that an option names, which holds keys, a token or a certificate. Pipes are read too: a shell's `<(…)` leaves no secret on a disk.
 *
 * @throws SwitchyardError `invalid_request` naming the option and the file
 */
export function readSecretFile(file: string, option: string): Uint8Array {
  try {
    return readBoundedFile(file, limits.secretFileBytesMax);
  } catch (error) {
    throw new SwitchyardError('invalid_request', `${option} ${file}: ${reasonOf(error as Error)}`, { cause: error });
  }
}

/** The same as text. @throws SwitchyardError `invalid_request` naming the option and the file */
export function readSecretText(file: string, option: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readSecretFile(file, option));
  } catch (error) {
    if (error instanceof SwitchyardError) throw error;
    throw new SwitchyardError('invalid_request', `${option} ${file}: is not UTF-8 text`, { cause: error });
  }
}

/** The token that everything of a cluster shares; empty where no file is named. @throws SwitchyardError `invalid_request`, also for an empty file */
export function readTokenFile(file: string | null, option: string): string {
  if (file === null) return '';
  const token = readSecretText(file, option).trim();
  if (token === '') throw new SwitchyardError('invalid_request', `${option} ${file}: is empty`);
  // It travels in headers. What they cannot hold would be refused far from here, by libraries whose messages say the token.
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new SwitchyardError(
      'invalid_request',
      `${option} ${file}: a token is one line of ASCII letters, digits and signs, without spaces`,
    );
  return token;
}

/** What `--tls-ca`, `--tls-cert` and `--tls-key` name; null where none is given. @throws SwitchyardError `invalid_request` naming the option */
export function readTlsFiles(files: Record<'tlsCa' | 'tlsCert' | 'tlsKey', string | null>, serverName: string | null): LinkTls | null {
  const { tlsCa, tlsCert, tlsKey } = files;
  if (tlsCa === null && tlsCert === null && tlsKey === null) return null;
  if ((tlsCert === null) !== (tlsKey === null))
    throw new SwitchyardError('invalid_request', '--tls-cert and --tls-key are needed together');
  const read = (file: string | null, option: string) => (file === null ? null : readSecretFile(file, option));
  return { ca: read(tlsCa, '--tls-ca'), cert: read(tlsCert, '--tls-cert'), key: read(tlsKey, '--tls-key'), serverName };
}

/** "ENOENT: no such file or directory, open '…'" without what is said already. */
function reasonOf({ message }: Error): string {
  return message.replace(/^[A-Z]+: ([^,]+),.*$/s, '$1');
}
