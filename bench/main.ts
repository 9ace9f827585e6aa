/** `npm run bench`: kernels, whole networks (`--net`), training (`--train`), memory (`--memory`), a GPU's machine code (`--code`), all that an adapter can show (`--readout`), or two read-outs (`--compare`), one as Markdown (`--table`). */
import { CmapError } from '../src/engine/errors.ts';

function refuse(error: unknown): never {
  if (!(error instanceof CmapError)) throw error;
  console.error(`bench: ${error.message}`);
  process.exit(2);
}

if (process.argv.includes('--readout')) await (await import('./readout.ts')).readout(process.argv.slice(2));
else if (process.argv.includes('--code'))
  await (await import('./code.ts')).code(process.argv.slice(2)).catch(refuse);
else if (process.argv.includes('--memory')) await import('./memory.ts');
else if (process.argv.includes('--net')) await import('./net.ts');
else if (process.argv.includes('--train')) await import('./train.ts');
else if (process.argv.includes('--compare')) await import('./compare.ts');
else if (process.argv.includes('--table')) await import('./table.ts');
else await import('./kernels.ts');
