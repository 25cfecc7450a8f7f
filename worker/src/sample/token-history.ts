/** How often each token of a sequence was produced, and which ones its prompt holds: what penalties depend on. Only sequences with penalties keep one. */
export class TokenHistory {
  /** token -> times produced; 0 for tokens of the prompt alone. At most one entry per token of the sequence. */
  readonly produced = new Map<number, number>();

  constructor(prompt: ArrayLike<number>) {
    for (let i = 0; i < prompt.length; i++) this.produced.set(prompt[i], 0);
  }

  add(token: number): void {
    this.produced.set(token, (this.produced.get(token) ?? 0) + 1);
  }
}
