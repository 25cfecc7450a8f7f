/** What a gRPC stream carries in its metadata so that it is let in, and how a refusal is told: the same for the control plane and for links. */
import { status } from '@grpc/grpc-js';
import { SwitchyardError } from './errors.ts';
import { PROTOCOL_VERSION } from './frame.ts';
import { fullListener } from './full-listener.ts';
import type { LinkOptions } from './link.ts';
import { sameSecret } from './secret.ts';

const VERSION_KEY = 'switchyard-protocol-version';
const TOKEN_KEY = 'authorization';

/** Metadata of who dials. */
export function admissionMetadata(options: LinkOptions): Record<string, string> {
  return { [VERSION_KEY]: String(PROTOCOL_VERSION), ...(options.token === '' ? {} : { [TOKEN_KEY]: `Bearer ${options.token}` }) };
}

/** @param openLinks of the listener. @returns null: let in */
export function refusalOf(metadata: (key: string) => unknown, options: LinkOptions, openLinks: number): SwitchyardError | null {
  const version = String(metadata(VERSION_KEY) ?? 'none');
  if (version !== String(PROTOCOL_VERSION))
    return new SwitchyardError('version_mismatch', `protocol version ${version.slice(0, 16)} is not ${PROTOCOL_VERSION}`);
  const token = String(metadata(TOKEN_KEY) ?? '').replace(/^Bearer /, '');
  if (options.token !== '' && !sameSecret(token, options.token))
    return new SwitchyardError('unauthorized', 'the cluster token is missing or wrong');
  return fullListener(openLinks);
}

export function statusOf(error: SwitchyardError): status {
  if (error.code === 'unauthorized') return status.UNAUTHENTICATED;
  if (error.code === 'version_mismatch') return status.FAILED_PRECONDITION;
  if (error.code === 'not_found') return status.UNIMPLEMENTED;
  if (error.code === 'queue_full') return status.RESOURCE_EXHAUSTED;
  return status.UNAVAILABLE;
}

/** What a call that had begun ended with. */
export function errorOf(code: number, details: string, peer: string): SwitchyardError {
  const message = messageOf(code, details, peer);
  if (code === status.UNAUTHENTICATED) return new SwitchyardError('unauthorized', message);
  if (code === status.FAILED_PRECONDITION) return new SwitchyardError('version_mismatch', message);
  if (code === status.RESOURCE_EXHAUSTED) return new SwitchyardError('bad_frame', message);
  return new SwitchyardError('link_closed', message);
}

/** Why a call was not let in. It had sent nothing that could be too large: what is exhausted is the listener, or something on the way to it, and may not be for long. */
export function refusedBy(code: number, details: string, peer: string): SwitchyardError {
  if (code === status.RESOURCE_EXHAUSTED) return new SwitchyardError('queue_full', messageOf(code, details, peer));
  return errorOf(code, details, peer);
}

function messageOf(code: number, details: string, peer: string): string {
  return `${peer}: ${details} (gRPC status ${code})`;
}

export function dialAborted(target: string, signal: AbortSignal): SwitchyardError {
  return new SwitchyardError('cancelled', `dialling ${target} was aborted`, { cause: signal.reason });
}
