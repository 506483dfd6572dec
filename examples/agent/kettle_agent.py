"""An agent that sells kettles: an ordinary async function."""

STOCK = {"red": 3, "blue": 0}


async def kettles(ctx):
    await ctx.thinking("looking at the shelf")
    async with ctx.tool("stock", {"colour": ctx.input}) as call:
        call.result = await count(ctx.input)
    return f"{call.result} {ctx.input} kettles"


async def count(colour):
    return STOCK.get(colour, 0)
