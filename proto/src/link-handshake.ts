/**
 * How a framed link begins. Each frame is u32 magic "SYLK", u16 protocol version, u8 step, u8 zero, then:
 *
 *   1 hello      dialler  → listener   16-byte nonce, scheme in ASCII
 *   2 challenge  dialler  ← listener   16-byte nonce, 32-byte proof
 *   3 proof      dialler  → listener   32-byte proof
 *   4 welcome    dialler  ← listener
 *   5 refusal    dialler  ← listener   u32 error code index, UTF-8 message; instead of 2 or 4
 *
 * proof = HMAC-SHA256(token, role | dialler's nonce | listener's nonce): both sides show that they know the cluster token and neither sends it. An end without a
 * token asks for no proof. Written as generators so that the conversation reads in order: `yield` sends a frame (or nothing) and gives the next one received;
 * the value returned is sent last.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { type ErrorCode, errorCatalogue, SwitchyardError } from './errors.ts';
import { PROTOCOL_VERSION } from './frame.ts';
import { limits } from './limits.ts';

export type Handshake = Generator<Uint8Array | null, Uint8Array | null, Uint8Array>;

const HANDSHAKE_MAGIC = 0x4b4c5953;
const HEAD_BYTES = 8;
const NONCE_BYTES = 16;
const PROOF_BYTES = 32;
const Step = { hello: 1, challenge: 2, proof: 3, welcome: 4, refusal: 5 } as const;
type Step = keyof typeof Step;
const codes = Object.keys(errorCatalogue) as ErrorCode[];

export function* diallerHandshake(scheme: string, token: string): Handshake {
  const nonce = randomBytes(NONCE_BYTES);
  const challenge = body(yield handshakeFrame('hello', nonce, Buffer.from(scheme, 'latin1')), 'challenge');
  expectLength('challenge', challenge, NONCE_BYTES + PROOF_BYTES);
  const farNonce = challenge.subarray(0, NONCE_BYTES);
  if (token !== '') checkProof(challenge.subarray(NONCE_BYTES), proofOf('listener', token, nonce, farNonce));
  expectLength('welcome', body(yield handshakeFrame('proof', proofOf('dialler', token, nonce, farNonce)), 'welcome'), 0);
  return null;
}

/** @param refusal why a dialler that has shown its token is not let in all the same; null: it is */
export function* listenerHandshake(scheme: string, token: string, refusal: () => SwitchyardError | null = () => null): Handshake {
  const hello = body(yield null, 'hello');
  if (hello.length < NONCE_BYTES) throw badHandshake(`hello of ${hello.length} bytes`);
  const farNonce = hello.subarray(0, NONCE_BYTES);
  const farScheme = hello.subarray(NONCE_BYTES).toString('latin1');
  if (farScheme !== scheme) throw badHandshake(`scheme ${JSON.stringify(farScheme.slice(0, 16))} where ${scheme} listens`);
  const nonce = randomBytes(NONCE_BYTES);
  const proof = body(yield handshakeFrame('challenge', nonce, proofOf('listener', token, farNonce, nonce)), 'proof');
  expectLength('proof', proof, PROOF_BYTES);
  if (token !== '') checkProof(proof, proofOf('dialler', token, farNonce, nonce));
  const refused = refusal();
  if (refused !== null) throw refused;
  return handshakeFrame('welcome');
}

export function refusalFrame(error: SwitchyardError): Uint8Array {
  const code = Buffer.alloc(4);
  code.writeUInt32LE(codes.indexOf(error.code));
  return handshakeFrame('refusal', code, Buffer.from(error.message.slice(0, (limits.handshakeBytesMax - HEAD_BYTES - 4) / 4)));
}

/** What a refusal says. */
export function refusalOf(received: Uint8Array): SwitchyardError {
  const frame = Buffer.from(received.buffer, received.byteOffset, received.length);
  if (frame.length < HEAD_BYTES + 4 || frame.readUInt32LE(0) !== HANDSHAKE_MAGIC || frame[6] !== Step.refusal)
    return badHandshake(`${frame.length} bytes where a refusal was due`);
  return refused(frame.subarray(HEAD_BYTES));
}

function refused(rest: Buffer): SwitchyardError {
  return new SwitchyardError(codes[rest.readUInt32LE(0)] ?? 'internal', rest.subarray(4).toString());
}

function handshakeFrame(step: Step, ...parts: Uint8Array[]): Uint8Array {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(HANDSHAKE_MAGIC, 0);
  head.writeUInt16LE(PROTOCOL_VERSION, 4);
  head.writeUInt8(Step[step], 6);
  return Buffer.concat([head, ...parts]);
}

/** What follows the head of the expected step. @throws the peer's refusal, or `bad_frame`, or `version_mismatch` */
function body(received: Uint8Array, step: Step): Buffer {
  const frame = Buffer.from(received.buffer, received.byteOffset, received.length);
  if (frame.length < HEAD_BYTES || frame.readUInt32LE(0) !== HANDSHAKE_MAGIC) throw badHandshake('no magic number');
  const version = frame.readUInt16LE(4);
  const rest = frame.subarray(HEAD_BYTES);
  if (frame[6] === Step.refusal && rest.length >= 4) throw refused(rest);
  if (version !== PROTOCOL_VERSION) throw new SwitchyardError('version_mismatch', `protocol version ${version} is not ${PROTOCOL_VERSION}`);
  if (frame[6] !== Step[step]) throw badHandshake(`step ${frame[6]} where ${Step[step]} (${step}) was due`);
  return rest;
}

function expectLength(step: Step, bytes: Uint8Array, length: number): void {
  if (bytes.length !== length) throw badHandshake(`${step} of ${bytes.length} bytes, must be ${length}`);
}

function proofOf(role: 'dialler' | 'listener', token: string, diallerNonce: Uint8Array, listenerNonce: Uint8Array): Buffer {
  return createHmac('sha256', token).update(role).update(diallerNonce).update(listenerNonce).digest();
}

function checkProof(given: Uint8Array, wanted: Uint8Array): void {
  if (!timingSafeEqual(given, wanted)) throw new SwitchyardError('unauthorized', 'the cluster token is missing or wrong');
}

function badHandshake(what: string): SwitchyardError {
  return new SwitchyardError('bad_frame', `handshake: ${what}`, { param: 'handshake' });
}
