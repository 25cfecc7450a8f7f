/** Browsers take no other meaning for names below localhost (RFC 6761). */
const LOOPBACK = /^(([\w-]+\.)*localhost|(::ffff:)?127(\.\d{1,3}){3}|::1)$/;

/** Whether an address of the network, or a name of it, is one that only this machine reaches. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}

/** Names and addresses without ports, with commas between; "*" is any. */
export const hostNamesPattern = /^(\*|[\w.-]+|\[[\da-f:]+\])(,(\*|[\w.-]+|\[[\da-f:]+\]))*$/i;

/** How far an address of a listener or of a peer reaches: "host:port", "unix:/path", or one of a link with its scheme. */
export function reachOf(address: string): 'files' | 'machine' | 'network' {
  if (/^(unix:|uds:|shm:|memory:)/.test(address)) return 'files';
  const host = address
    .replace(/^[a-z]+:\/\//, '')
    .replace(/\/.*$/, '')
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1');
  return isLoopback(host) ? 'machine' : 'network';
}
