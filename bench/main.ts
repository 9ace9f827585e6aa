/** `npm run bench`: kernels, whole networks (`--net`), training (`--train`), memory (`--memory`), a GPU's machine code (`--code`), all that an adapter can show (`--readout`), or two read-outs (`--compare`), one as Markdown (`--table`). */
import { CmapError } from '../src/engine/errors.ts';

function refuse(error: unknown): never {
  if (!(error instanceof CmapError)) throw error;
  console.error(`bench: ${error.message}`);
  process.exit(2);
}

const words = process.argv.slice(2);
const run = async (): Promise<unknown> => {
  if (words.includes('--readout')) return (await import('./readout.ts')).readout(words);
  if (words.includes('--code')) return (await import('./code.ts')).code();
  if (words.includes('--memory')) return import('./memory.ts');
  if (words.includes('--net')) return import('./net.ts');
  if (words.includes('--train')) return import('./train.ts');
  if (words.includes('--compare')) return import('./compare.ts');
  if (words.includes('--table')) return import('./table.ts');
  return import('./kernels.ts');
};
await run().catch(refuse);
