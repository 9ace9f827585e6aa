// y[R*r + c, t, channel] = (L D Lᵀ)[r, c], with D the SIDE x SIDE pixels of channel `channel` of x from row TILE*ty - top
// and column TILE*tx - left of image n on, zero outside the image; t is the tile (n, ty, tx).
// x [N, h, wd, channels], y [R^2, tiles, channels]. In buffers T = f32, as vectors are no faster and take three times as long to
// compile; in texels T = vec4<f32>, and channels are counted in fours. Constants: T, SIDE, TILE, R, the rows of L, which is written
// into the lines with $, see `sandwich` in winograd.ts. Appended: of itemText `item`, the binding x. Params: tiles of a column and of
// a row of tiles. Grid: one invocation a tile and T.
struct Params { h: i32, wd: i32, channels: i32, down: u32, across: u32, top: i32, left: i32, count: u32 }
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let p = params;
  let i = id.x + id.y * groups.x * 64u;
  if (i >= p.count) { return; }
  let t = i / u32(p.channels);
  let row = TILE * i32((t / p.across) % p.down) - p.top;
  let column = TILE * i32(t % p.across) - p.left;
  let first = (i32(t / (p.across * p.down)) * p.h + row) * p.wd + column;
  let at = first * p.channels + i32(i % u32(p.channels));
  let down$a = (row + $a >= 0) & (row + $a < p.h);
  let across$b = (column + $b >= 0) & (column + $b < p.wd);
  let in$a$b = down$a & across$b;
  let d$a$b = select(T(), item(u32(select(0, at + ($a * p.wd + $b) * p.channels, in$a$b))), in$a$b);
  let e$r$b = $left;
  let u$r$c = $right;
  y[(R * $ru + $cu) * p.count + i] = u$r$c;
}
