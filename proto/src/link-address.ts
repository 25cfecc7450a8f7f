import { SwitchyardError } from './errors.ts';
import { checkSocketPath, socketRealm } from './unix-socket.ts';

/** "tcp://127.0.0.1:4101" → "tcp". @throws SwitchyardError `invalid_request` */
export function schemeOf(address: string): string {
  const found = /^([a-z][a-z0-9+]*):\/\//.exec(address);
  if (found === null) throw badAddress(address, 'scheme://…');
  return found[1];
}

/** "tcp://[::1]:4101" → { host: '::1', port: 4101 } */
export function parseHostPort(address: string, scheme: string): { host: string; port: number } {
  const found = /^([a-z]+):\/\/(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(address);
  if (found === null || found[1] !== scheme || Number(found[4]) > 65_535) throw badAddress(address, `${scheme}://host:port`);
  return { host: found[2] ?? found[3], port: Number(found[4]) };
}

export function formatHostPort(scheme: string, host: string, port: number): string {
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** "uds:///run/x.sock" or "uds://<realm>/run/x.sock" → "/run/x.sock". */
export function parseSocketPath(address: string, scheme: string): string {
  const found = /^([a-z]+):\/\/[0-9a-f]*(\/.*)$/.exec(address);
  if (found === null || found[1] !== scheme) throw badAddress(address, `${scheme}:///absolute/path`);
  checkSocketPath(found[2]);
  return found[2];
}

/** "nats://broker:4222/switchyard.n0w1" → { server: 'broker:4222', prefix: 'switchyard.n0w1' } */
export function parseNatsAddress(address: string): { server: string; prefix: string } {
  const found = /^(nats:\/\/[^/]+)\/([A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,7})$/.exec(address);
  if (found === null) throw badAddress(address, 'nats://host:port/subject.prefix');
  const { host, port } = parseHostPort(found[1], 'nats');
  return { server: formatHostPort('nats', host, port).slice('nats://'.length), prefix: found[2] };
}

/** Whether an address of a scheme that means files is of a file that this process would see; one without a realm is taken at its word. */
export function isLocalSocket(address: string): boolean {
  const realm = realmOf(address);
  return realm === '' || realm === socketRealm();
}

/** Whether who shares the file system of whoever announces the address reaches it over no network. */
export function isSocketOfFiles(address: string): boolean {
  return realmOf(address) !== null;
}

/** Null where the scheme does not mean files; empty where the address does not say whose. */
function realmOf(address: string): string | null {
  return /^(?:uds|shm):\/\/([0-9a-f]*)\//.exec(address)?.[1] ?? null;
}

function badAddress(address: string, wanted: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `address ${JSON.stringify(address.slice(0, 256))} is not ${wanted}`, { param: 'address' });
}
