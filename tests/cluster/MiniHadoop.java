import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;
import org.apache.hadoop.yarn.conf.YarnConfiguration;
import org.apache.hadoop.yarn.server.MiniYARNCluster;

/**
 * An HDFS and a YARN of one node on the loopback interface.
 *
 * java MiniHadoop.java HOME PORT CLASSPATH: files below HOME, the NameNode at PORT, the class path of YARN's
 * applications. HOME/conf gets the client's configuration, last of all the file HOME/conf/ready. Lines on standard
 * input are orders, each answered by a line: "stop namenode", "start namenode". It ends with its input.
 */
public class MiniHadoop {
    public static void main(String[] args) throws Exception {
        Path home = Path.of(args[0]);
        Path conf = Files.createDirectories(home.resolve("conf"));
        MiniDFSCluster dfs = new MiniDFSCluster.Builder(new Configuration(), home.resolve("dfs").toFile())
                .nameNodePort(Integer.parseInt(args[1])).numDataNodes(1).build();
        dfs.waitActive();
        Configuration core = new Configuration(false);
        core.set("fs.defaultFS", dfs.getURI().toString());
        write(core, conf.resolve("core-site.xml"));
        write(startYarn(dfs, args[2]), conf.resolve("yarn-site.xml"));
        Files.createFile(conf.resolve("ready"));
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
        for (String order = orders.readLine(); order != null; order = orders.readLine()) {
            if (order.equals("stop namenode")) {
                dfs.shutdownNameNode(0);
            } else if (order.equals("start namenode")) {
                dfs.restartNameNode(0, true);
            }
            System.out.println("done: " + order);
        }
        System.exit(0);
    }

    /** Start one ResourceManager and one NodeManager; what a client must know of them. */
    private static Configuration startYarn(MiniDFSCluster dfs, String classpath) throws Exception {
        Configuration settings = new YarnConfiguration();
        settings.set("fs.defaultFS", dfs.getURI().toString());
        settings.set("yarn.scheduler.capacity.root.queues", "default");
        settings.set("yarn.scheduler.capacity.root.default.capacity", "100");
        settings.set("yarn.scheduler.capacity.maximum-am-resource-percent", "0.8");
        settings.setInt(YarnConfiguration.RM_SCHEDULER_MINIMUM_ALLOCATION_MB, 256);
        settings.setInt(YarnConfiguration.NM_PMEM_MB, 8192);
        settings.setBoolean(YarnConfiguration.NM_PMEM_CHECK_ENABLED, false);
        settings.setBoolean(YarnConfiguration.NM_VMEM_CHECK_ENABLED, false);
        settings.setFloat(YarnConfiguration.NM_MAX_PER_DISK_UTILIZATION_PERCENTAGE, 99);
        settings.setInt(YarnConfiguration.DEBUG_NM_DELETE_DELAY_SEC, 0);
        MiniYARNCluster yarn = new MiniYARNCluster("mini", 1, 1, 1);
        yarn.init(settings);
        yarn.start();
        Configuration client = new Configuration(false);
        for (String key : new String[] {YarnConfiguration.RM_ADDRESS, YarnConfiguration.RM_SCHEDULER_ADDRESS}) {
            client.set(key, yarn.getConfig().get(key));
        }
        client.set(YarnConfiguration.YARN_APPLICATION_CLASSPATH, classpath);
        return client;
    }

    private static void write(Configuration settings, Path path) throws Exception {
        try (OutputStream out = Files.newOutputStream(path)) {
            settings.writeXml(out);
        }
    }
}
