import type { FanOutSearch, NodePlacement } from './fan-out-search.ts';
import type { LayerPrices } from './layer-search.ts';

/** The best by merit of what a search has been through: rounds of improvement at moving prices may end worse than they were. */
export class BestSeen {
  private readonly search: FanOutSearch;
  private best: NodePlacement & { merit: number; prices: LayerPrices };

  /** The search as it is now is the first that is seen. */
  constructor(search: FanOutSearch) {
    this.search = search;
    this.best = this.present();
  }

  look(): void {
    if (this.search.merit() < this.best.merit) this.best = this.present();
  }

  /** Leaves the search with the best, prices included. */
  resume(): void {
    Object.assign(this.search.prices, this.best.prices);
    this.search.resume(this.best);
  }

  private present(): NodePlacement & { merit: number; prices: LayerPrices } {
    const { search } = this;
    return { ...search.result(), merit: search.merit(), prices: { ...search.prices } };
  }
}
