// y[n, TILE*ty + r, TILE*tx + c, channel] = (L D Lᵀ)[r, c] + bias[channel], where that lies inside y; D[a, b] = x[SIDE*a + b, t, channel]
// and t is the tile (n, ty, tx).
// x [SIDE^2, tiles, channels], y [N, h, wd, channels]; T as in winograd-planes.wgsl. Constants: T, SIDE, TILE = R, the rows of L, which
// is written into the lines with $, see `sandwich` in winograd.ts. Appended: of itemText `item`, the binding x. Params: tiles of a
// column and of a row of tiles; whether there is a bias. Grid: one invocation a tile and T.
struct Params { h: u32, wd: u32, channels: u32, down: u32, across: u32, count: u32, bias: u32 }
@group(0) @binding(1) var<storage, read> bias: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let p = params;
  let i = id.x + id.y * groups.x * 64u;
  if (i >= p.count) { return; }
  let channel = i % p.channels;
  let t = i / p.channels;
  let row = TILE * ((t / p.across) % p.down);
  let column = TILE * (t % p.across);
  let first = (t / (p.across * p.down) * p.h + row) * p.wd + column;
  let at = first * p.channels + channel;
  var added = T();
  if (p.bias != 0u) { added = bias[channel]; }
  let d$a$b = item((SIDE * $au + $bu) * p.count + i);
  let e$r$b = $left;
  let u$r$c = $right;
  if ((row + $ru < p.h) & (column + $cu < p.wd)) { y[at + ($ru * p.wd + $cu) * p.channels] = u$r$c + added; }
}
