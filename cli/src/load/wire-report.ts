/** What the workers exchanged while a level ran. Bytes are what a link carried, framing included, per token (prompt and output). */
export interface WireReport {
  tokens: number;
  bytesPerToken: number;
  crossNodeBytesPerToken: number;
  /** Distinct remote nodes that a token visited per MoE layer, on average: `r` of the cost formula. */
  remoteNodesPerTokenLayer: number;
  /** Mean round trip of a dispatch and its answer, all links together. */
  roundTripMicroseconds: number;
  links: { from: string; to: string; transport: string; crossNode: boolean; bytesPerToken: number; frames: number }[];
}
