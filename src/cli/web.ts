/** `cmap web`: the page on this machine. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Command } from 'commander';
import sirv from 'sirv';
import { InputError } from '../engine/errors.ts';
import { packageRoot } from '../formats/package-root.ts';
import { parseInteger } from './options.ts';

/** Serves the page with the weights and data of the package, to this machine alone. @throws InputError for a port in use */
export async function serve(port: number): Promise<{ server: Server; url: string }> {
  // `dev` reads files when they are asked for; the folders are small and may be built anew.
  const under = (...names: string[]) => sirv(join(packageRoot(), ...names), { dev: true });
  const page = under('dist', 'web');
  const folders = { '/weights/': under('weights'), '/data/': under('data') };
  const server = createServer((request, response) => {
    const url = request.url ?? '/';
    const missing = () => {
      response.writeHead(404).end('not here\n');
    };
    for (const [path, files] of Object.entries(folders)) {
      if (!url.startsWith(path)) continue;
      request.url = url.slice(path.length - 1);
      files(request, response, missing);
      return;
    }
    page(request, response, missing);
  });
  await new Promise<void>((listening, failed) => {
    server.once('error', ({ message }) =>
      failed(new InputError(`--port ${port}: ${message}; choose another`)),
    );
    server.listen(port, '127.0.0.1', listening);
  });
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}

export function webCommand(): Command {
  return new Command('web')
    .description('Serve a page that attacks and purifies an image in a browser with WebGPU; Ctrl-C ends it.')
    .option('--port <n>', '0 for any that is free', parseInteger, 8080)
    .action(async ({ port }: { port: number }) => {
      if (port < 0 || port > 65535) throw new InputError(`--port must be 0 to 65535, got ${port}`);
      const { server, url } = await serve(port);
      process.stdout.write(`${url}\n`);
      await new Promise((closed) => server.once('close', closed));
    });
}
