def publish(finished, cells, labels, benchmark, protocol, options):
    for r in finished: print(r['arm'], r['images']['name'], r['seed'], r['top1'], round(r['seconds'],1))
