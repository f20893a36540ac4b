"""proto"""
from __future__ import annotations
from dataclasses import dataclass
import numpy as np

BATCH=256; POOL=4096; BLOCK=4096
COINCIDENT=1e-6

class UnitRows:
    def __init__(self, raw):
        self.raw=raw
        self.inv=np.empty(len(raw),np.float32)
        for s in range(0,len(raw),BLOCK):
            b=np.asarray(raw[s:s+BLOCK],np.float32)
            self.inv[s:s+BLOCK]=np.einsum("ij,ij->i",b,b)
        self.inv=1/np.sqrt(self.inv)
        self.slack=2*(raw.shape[1]+8)*2.0**-24
    def exact(self, rows):
        x=self.raw[rows].astype(np.float64)
        x/=np.sqrt((x*x).sum(axis=1,keepdims=True))
        return (np.rint(x*2**24)/2**24).astype(np.float32)
    def rough(self, rows, refs):
        x=np.asarray(self.raw[rows],np.float32)
        return 1-(x@refs.T).max(axis=1)*self.inv[rows]

class Greedy:
    def __init__(self, rows, weights, priority, labelled, n):
        N,D=rows.raw.shape
        self.rows=rows; self.w=weights; self.priority=priority
        M=0 if labelled is None else len(labelled)
        self.refs=np.empty((M+n,D),np.float32); self.count=M
        self.reach=np.full(N,2.0); self.seen=np.zeros(N,np.int32); self.exact=np.zeros(N,bool)
        self.bounds=weights*2
        self.pool=None
        self.stats=dict(refresh=0,rows=0,settle=0,srows=0,fill=0)
        if M:
            l=UnitRows(labelled)
            for s in range(0,M,BLOCK): self.refs[s:min(M,s+BLOCK)]=l.exact(slice(s,min(M,s+BLOCK)))
    def survey(self, limit=None):
        c=min(self.count, limit or self.count)
        N=len(self.reach)
        for s in range(0,N,BLOCK):
            sl=slice(s,min(N,s+BLOCK))
            self.reach[sl]=np.minimum(self.reach[sl],self.rows.rough(sl,self.refs[:c])+self.rows.slack)
        self.seen[:]=c; self.exact[:]=False
        m=self.bounds>=0
        self.bounds[m]=(self.w*self.reach)[m]
    def fill(self):
        self.stats["fill"]+=1
        size=min(POOL,len(self.bounds))
        kth=np.partition(self.bounds,-size)[-size]
        above=np.flatnonzero(self.bounds>kth); tied=np.flatnonzero(self.bounds==kth)
        tied=tied[np.argsort(self.priority[tied])]
        cut=size-len(above)
        pool=np.concatenate([above,tied[:cut]])
        self.pool=pool[np.argsort(self.priority[pool])]
        self.rest=(kth, self.priority[tied[cut]] if cut<len(tied) else len(self.bounds))
    def best(self):
        if self.pool is None: self.fill()
        while True:
            b=self.bounds[self.pool]; k=int(b.argmax()); i=int(self.pool[k])
            if not(b[k]>self.rest[0] or (b[k]==self.rest[0] and self.priority[i]<self.rest[1])):
                self.fill(); continue
            if b[k]<=0: return None
            if self.seen[i]<self.count:
                if len(b)>BATCH: top=self.pool[np.argpartition(b,-BATCH)[-BATCH:]]
                else: top=self.pool
                self.refresh(top[(self.seen[top]<self.count)&(self.seen[top]>=self.seen[i])&(self.bounds[top]>0)])
            elif not self.exact[i]:
                fl=self.w[i]*(self.reach[i]-2*self.rows.slack)
                m=np.flatnonzero((b>=fl)&(self.seen[self.pool]==self.count)&~self.exact[self.pool])
                self.settle(self.pool[m[:BATCH]] if k in m[:BATCH] else np.array([i]))
            else: return i
    def refresh(self, rows):
        self.stats["refresh"]+=1; self.stats["rows"]+=len(rows)
        first=self.seen[rows].min()
        d=self.rows.rough(rows,self.refs[first:self.count]).astype(float)
        self.exact[rows]&=d-self.rows.slack>=self.reach[rows]
        self.reach[rows]=np.minimum(self.reach[rows],d+self.rows.slack)
        self.seen[rows]=self.count
        self.bounds[rows]=self.w[rows]*self.reach[rows]
    def settle(self, rows):
        self.stats["settle"]+=1; self.stats["srows"]+=len(rows)
        u=self.rows.exact(rows); refs=self.refs[:self.count]
        c=u@refs.T
        near=refs[(c>=c.max(axis=1,keepdims=True)-self.rows.slack).any(axis=0)]
        d=1-(u.astype(float)@near.astype(float).T).max(axis=1)
        d[d<COINCIDENT]=0
        self.reach[rows]=d; self.exact[rows]=True; self.bounds[rows]=self.w[rows]*d
    def take(self,i):
        self.refs[self.count]=self.rows.exact([i])[0]; self.count+=1; self.bounds[i]=-1

def pick(E,u,n,w=0.4,labelled=None,limit=64,stats=None):
    rows=UnitRows(E); N=len(E)
    gamma=(1-w)/w
    g=Greedy(rows,u**gamma,np.arange(N),labelled,n)
    out=[]; gains=[]
    if labelled is None:
        i=int(u.argmax()); g.take(i); out.append(i)
    g.survey(limit)
    while len(out)<n:
        i=g.best()
        if i is None: break
        out.append(i); gains.append(g.bounds[i]); g.take(i)
    if stats is not None: stats.update(g.stats)
    return np.array(out)
